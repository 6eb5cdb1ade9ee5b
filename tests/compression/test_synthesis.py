"""The store of synthetic images and the diversity measure."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compressbench import storage
from compressbench.compression import synthesis
from compressbench.errors import UserError
from compressbench.files import read_json
from compressbench.method import SyntheticImages


def context(folder: Path):
    (folder / "dense").mkdir(exist_ok=True)
    (folder / "dense" / "model.safetensors").write_bytes(b"teacher")
    return SimpleNamespace(
        folder=folder, dense_folder=folder / "dense", synthetic_file=folder / "synthetic.safetensors", seed=0,
        info=SimpleNamespace(classes=3), companions={"generator/weight": torch.ones(2)},
    )  # fmt: skip


def test_images_are_stored_with_labels_teacher_and_preview(tmp_path):
    ctx, labels = context(tmp_path), torch.tensor([0, 2, 2, 0])
    synthesis.save_synthetic(SyntheticImages(torch.randn(4, 1, 8, 8), labels), ctx)
    assert read_json(tmp_path / "synthetic.json")["labels_per_class"] == [2, 0, 2]
    assert storage.load_tensors(ctx.synthetic_file).keys() == {"images", "labels", "generator/weight"}
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")
    synthesis.check_teacher(ctx)
    (tmp_path / "dense" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match="teacher_sha256"):
        synthesis.check_teacher(ctx)


def test_images_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UserError, match="finite"):
        synthesis.save_synthetic(
            SyntheticImages(torch.full((1, 1, 2, 2), torch.nan), torch.tensor([0])), context(tmp_path)
        )


def test_intra_class_distance():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    expected = (1 - 2**-0.5) * 2 / 3  # two at 45 degrees to their mean, one alone in its class
    assert synthesis.intra_class_distance(features, torch.tensor([0, 0, 2]), 3) == pytest.approx(expected)
