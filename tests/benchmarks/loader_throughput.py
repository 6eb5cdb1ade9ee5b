"""Images per second of one core: the suite's loader beside Pillow alone, which decodes the same files and resizes them.

    python -m tests.benchmarks.loader_throughput [FOLDER]

FOLDER is in ImageNet's layout (default: one that is cut from photographs). Prints images per second of one core.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from compressbench import data
from compressbench.config import ImageFolder
from compressbench.data import FolderSplit, photograph_folder
from compressbench.data.folder_split import Steps

BATCH, STEPS, ROUNDS, SIDE = 32, 6, 5, 224


def pillow(split: FolderSplit) -> Callable[[int], object]:
    """The limit: decode the images of a step and resize them, nothing else."""
    files = [split.folder / bytes(name).decode() for name in split.names]

    def step(number: int) -> None:
        for file in itertools.islice(itertools.cycle(files), number * BATCH, (number + 1) * BATCH):
            with Image.open(file) as image:
                image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)

    return step


def rate(step: Callable[[int], object]) -> float:
    """Images per second of processor time, which other processes do not take away."""
    start = time.process_time()
    for number in range(STEPS):
        step(number)
    return STEPS * BATCH / (time.process_time() - start)


def rates(folder: Path, rounds: int = ROUNDS) -> dict[str, float]:
    """Medians over interleaved rounds, by what reads."""
    torch.set_num_threads(1)
    form = ImageFolder.model_validate({"kind": "image_folder", "path": str(folder.resolve()), "validation": 0})
    split = data.load("folder", Path("data"), own=form).train  # type: ignore[union-attr]
    assert isinstance(split, FolderSplit)
    readers: dict[str, Callable[[int], object]] = {
        "pillow": pillow(split),
        "training": Steps(split, BATCH, 0, "resized_crop_flip"),
        "evaluation": lambda number: split.images_at(slice(number * BATCH, (number + 1) * BATCH)),
    }
    found = [{name: rate(step) for name, step in readers.items()} for _ in range(rounds)]
    return {name: statistics.median(own[name] for own in found) for name in readers}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "photographs"
        if not folder.exists():
            photograph_folder.write(folder)
        found = rates(folder)
    for name, value in found.items():
        print(f"{name}: {value:.0f} images per second and core, {value / found['pillow']:.2f} of Pillow's limit")


if __name__ == "__main__":
    main()
