"""Image files as a split, and batches of them that no worker, resume or order of questions changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compressbench.data import FolderBatches, FolderSplit, Loader, Preprocessing
from compressbench.data.folder_split import Steps
from compressbench.data.mixing import MixedBatches
from compressbench.data.transforms import centre, normalise
from compressbench.errors import UserError
from tests.data.test_images import DEEP, GREY, GREY_ALPHA, RGB, RGB_ALPHA, png

HOW = Preprocessing(16, 18, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def split_of(birds: Path, workers: int = 0) -> FolderSplit:
    files = sorted(str(path.relative_to(birds)) for path in (birds / "train").rglob("*.JPEG"))
    return FolderSplit.of(birds, [(name, int(name[10])) for name in files], HOW, Loader(workers))


def test_images_are_had_by_index_in_batches_and_as_a_smaller_split(birds: Path) -> None:
    split = split_of(birds)
    assert (
        len(split) == 24
        and split.labels.tolist() == sorted(split.labels.tolist())
        and split.labels.dtype == torch.int64
    )
    chosen = torch.tensor([20, 3])
    images = split.images_at(chosen)
    assert images.shape == (2, 3, 16, 16) and images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, normalise([centre(split.pixels(i), HOW) for i in (20, 3)], HOW))
    assert torch.equal(split.take(chosen).images_at(slice(None)), images)
    assert split.take(chosen).labels.tolist() == split.labels[chosen].tolist()
    assert split.relabelled(split.labels + 5).take(slice(2)).labels.tolist() == [5, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_evaluation_are_all_images_in_order(birds: Path, workers: int) -> None:
    batches = list(split_of(birds, workers).in_batches(10))
    assert [len(labels) for _, labels in batches] == [10, 10, 4]
    assert torch.equal(torch.cat([images for images, _ in batches]), split_of(birds).images_at(slice(None)))


def equal(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("augmentation", ["none", "flip", "resized_crop_flip"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_a_resume_in_mid_epoch_change_no_bit(birds: Path, workers: int, augmentation: str) -> None:
    def batches(workers: int) -> FolderBatches:
        return FolderBatches(split_of(birds, workers), 5, 3, augmentation)  # type: ignore[arg-type]

    alone = batches(0)
    uninterrupted = [alone(step) for step in range(10)]
    assert alone.steps_per_epoch == 4
    ahead, resumed = batches(workers), batches(workers)
    assert equal([ahead(step) for step in range(10)], uninterrupted)
    assert equal([resumed(step) for step in range(6, 10)], uninterrupted[6:])
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in [ahead(4), ahead(5)])
    assert not torch.equal(FolderBatches(split_of(birds), 5, 4, augmentation)(0)[0], uninterrupted[0][0])  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_a_batch_are_had_without_the_files_of_the_others(
    birds: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = (FolderBatches(split_of(birds, workers), 8, 3, "resized_crop_flip") for _ in range(2))
    expected = [tuple(rows[4:] for rows in whole(step)) for step in range(4)]
    read: list[int] = []
    pixels = FolderSplit.pixels
    monkeypatch.setattr(FolderSplit, "pixels", lambda split, index: read.append(index) or pixels(split, index))
    second = part.rows(slice(4, 8))
    assert equal([second(step) for step in range(4)], expected)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in expected)
    assert len(read) == (4 * 4 if workers == 0 else 4)  # from the second step on, workers read


def test_the_part_of_an_image_depends_on_seed_pass_and_image_alone(birds: Path) -> None:
    split = split_of(birds)
    small, large = (Steps(split, size, 3, "resized_crop_flip") for size in (4, 12))
    one_pass = [torch.cat([steps(step)[0] for step in range(steps.per_epoch)]) for steps in (small, large)]
    assert torch.equal(*one_pass)  # whatever else is in the batch
    with_labels = [torch.cat([small(step)[1] for step in range(6 * p, 6 * p + 6)]) for p in range(2)]
    assert [labels.sort().values.tolist() for labels in with_labels] == [split.labels.tolist()] * 2
    again = torch.cat([small(step)[0] for step in range(6, 12)])
    assert not set(again.flatten(1).sum(1).tolist()) & set(one_pass[0].flatten(1).sum(1).tolist())


def test_a_batch_can_be_cut_and_mixed(birds: Path) -> None:
    source = FolderBatches(split_of(birds), 6, 0, "resized_crop_flip")
    images, target = MixedBatches(source, 3, 0.1, mixup=0, cutmix=1, seed=0)(2)
    plain, _ = source(2)
    taken = (images == plain).all(1)
    assert 0 < taken.float().mean() < 1 and (images == plain.flip(0)).all(1)[~taken].all()
    torch.testing.assert_close(target.sum(1), torch.ones(6))


def test_small_images_padding_and_large_batches_are_refused(birds: Path) -> None:
    with pytest.raises(UserError, match=r"crop_flip pads .* one of none, flip, resized_crop_flip"):
        split_of(birds).batches(4, 0, "crop_flip")
    with pytest.raises(UserError, match="batch_size 25 does not fit 24 training images"):
        split_of(birds).batches(25, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_file_is_named_in_one_sentence(tmp_path: Path, workers: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("whole", "cut"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    split = FolderSplit.of(tmp_path, [("whole.jpg", 0), ("cut.jpg", 1)], HOW, Loader(workers))
    for read in (lambda: list(split.in_batches(1)), lambda: [split.batches(1, 0)(step) for step in range(2)]):
        with pytest.raises(
            UserError, match=r"^.*cut\.jpg is damaged or cannot be read \(.*truncated.*\); replace it, or remove it\.$"
        ):
            read()


def one(folder: Path, name: str) -> list[list[int]]:
    """The first row of an image file."""
    return FolderSplit.of(folder, [(name, 0)], HOW).pixels(0)[:, 0].T.tolist()


def test_files_of_every_kind_are_read_as_torchvisions_loader_does_and_16_bits_are_rescaled(tmp_path: Path) -> None:
    from compressbench.torchvision_compat import torchvision

    kinds = {
        "rgba": ("RGBA", (10, 20, 30, 40)),
        "grey": ("L", 77),
        "grey_alpha": ("LA", (77, 0)),
        "ink": ("CMYK", (5, 6, 7, 8)),
    }
    for name, (mode, colour) in kinds.items():
        path = tmp_path / f"{name}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (2, 2), colour).save(path)
        expected = torchvision.datasets.folder.default_loader(str(path)).getpixel((0, 0))
        assert one(tmp_path, path.name)[0] == list(expected)
    jpeg = tmp_path / "ink.JPEG"
    Image.new("CMYK", (8, 8), (50, 100, 150, 20)).save(jpeg)
    assert one(tmp_path, jpeg.name)[0] == list(torchvision.datasets.folder.default_loader(str(jpeg)).getpixel((0, 0)))

    rows = np.array([DEEP])
    png(tmp_path / "deep.png", rows, GREY)
    assert [pixel[1] for pixel in one(tmp_path, "deep.png")] == [round(value / 257) for value in DEEP]
    for kind, channels in ((RGB, 3), (GREY_ALPHA, 2), (RGB_ALPHA, 4)):
        png(tmp_path / "colour.png", np.repeat(rows[..., None], channels, axis=2), kind)
        found = [pixel[0] for pixel in one(tmp_path, "colour.png")]
        assert np.abs(np.array(found) - np.array(DEEP) / 257).max() < 1
