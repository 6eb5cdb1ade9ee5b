"""The stages around somebody else's weights: no training, a record of where they came from, and fidelity to them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from compressbench import data, models
from compressbench.config import load_scale
from compressbench.data import Split
from compressbench.plan import Plan, Run
from compressbench.plan.datasets import DataSets
from compressbench.stages.stages import run_stage
from tests.conftest import ROOT

RUN = Run("smoke", "photograph_crops", "mine", "dense", "checkpoint", 0)
ARGUMENTS = {"in_channels": 3, "widths": [8, 8], "strides": [4, 4]}


@pytest.fixture
def root(tmp_path: Path, data_root: Path) -> Iterator[Path]:
    """A project whose only pair has weights of a file, and images without labels."""
    torch.manual_seed(1)
    save_file(models.build("plain", **ARGUMENTS).state_dict(), tmp_path / "mine.safetensors")
    digest = hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    pair = {
        "architecture": "plain", "arguments": ARGUMENTS, "timed": False, "images": 8,
        "pretrained": {"source": "file", "file": "mine.safetensors", "sha256": digest[:8]},
    }  # fmt: skip
    compared = {name: [RUN.pair] if name == "fidelity" else [] for name in load_scale(ROOT, "smoke").comparisons}
    content = {"seeds": [0], "comparisons": compared, "pairs": {RUN.pair: pair}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config/smoke.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    for name in ("methods", "data.dvc"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").symlink_to(data_root / "data")
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield tmp_path
    torch.use_deterministic_algorithms(deterministic)


def quality_of(root: Path) -> dict[str, float]:
    for stage in ("pretrain", "compress", "evaluate"):
        run_stage(root, RUN, stage)
    metrics = json.loads((root / RUN.folder("evaluate") / "metrics.json").read_text(encoding="utf-8"))
    return dict(metrics["quality"])


def test_the_dense_model_is_the_file_and_nothing_was_trained(root: Path) -> None:
    assert quality_of(root) == {"agreement": 100, "kl_divergence": 0}
    folder = root / RUN.folder("pretrain")
    stored, given = load_file(folder / "model.safetensors"), load_file(root / "mine.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in given.items())
    assert (folder / "history.csv").read_text(encoding="utf-8") == "epoch\n"
    origin = json.loads((folder / "pretrained.json").read_text(encoding="utf-8"))
    whole = hashlib.sha256((root / "mine.safetensors").read_bytes()).hexdigest()
    assert origin == {"source": "file", "name": None, "file": "mine.safetensors", "sha256": whole}


def test_accuracy_is_measured_beside_where_the_labelled_images_are_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Plan(root, "smoke", ["dense"]).job(RUN, "evaluate").digest
    monkeypatch.setattr(DataSets, "beside", lambda self, entry: {entry.beside: "hash"})
    assert Plan(root, "smoke", ["dense"]).job(RUN, "evaluate").digest != before
    images, load = torch.zeros(4, 3, 224, 224), data.load

    def fake(name: str, *args: object, **options: object) -> object:
        if name != "imagenet":
            return load(name, *args, **options)  # type: ignore[arg-type]
        labels = torch.full((4,), int(seen_in_black(root)))
        labels[0] += 1
        return SimpleNamespace(test=Split(images, labels))

    monkeypatch.setattr(data, "load", fake)
    assert quality_of(root) == {"agreement": 100, "kl_divergence": 0, "top1": 75}


def seen_in_black(root: Path) -> torch.Tensor:
    """What the network sees in a black image."""
    network = models.build("plain", **ARGUMENTS).eval()
    network.load_state_dict(load_file(root / "mine.safetensors"))
    with torch.no_grad():
        return network(torch.zeros(1, 3, 224, 224)).argmax()
