"""The store of synthetic images and the diversity measure."""

from pathlib import Path

import pytest
import torch

from compressbench import data, models, storage
from compressbench.config import Pair
from compressbench.data import ClassificationData, Split, SyntheticImages
from compressbench.data_free import synthesis
from compressbench.errors import UserError
from compressbench.files import read_json
from compressbench.method import Context

TEACHER = {"in_channels": 1, "blocks": [1, 1, 1], "widths": [4, 8, 8]}


def context(folder: Path) -> Context:
    """A context of the stage synthesize on digits, with an untrained teacher."""
    recipe = {"epochs": 1, "batch_size": 8, "lr": 0.1}
    pair = Pair.model_validate(
        {
            "architecture": "resnet_cifar",
            "arguments": TEACHER,
            "scratch": recipe,
            "pretrain": recipe,
            "finetune": recipe,
        }
    )
    ctx = Context(folder, "synthesize", 0, pair, "digits", folder, torch.device("cpu"))
    ctx.dense_folder, ctx.synthetic_file = folder / "dense", folder / "synthetic.safetensors"
    storage.save_model(ctx.build(), ctx.dense_folder)
    real = Split(torch.randn(30, 1, 8, 8), torch.arange(30) % 3)
    ctx.__dict__["data"] = ClassificationData(data.info("digits"), real, real, real)
    return ctx


def test_images_are_stored_with_labels_teacher_and_preview(tmp_path):
    ctx, labels = context(tmp_path), torch.tensor([0, 2, 2, 0])
    ctx.keep("generator", {"weight": torch.ones(2)})
    synthesis.save_synthetic(SyntheticImages(torch.randn(4, 1, 8, 8), labels), ctx)
    assert read_json(tmp_path / "synthetic.json")["labels_per_class"][:4] == [2, 0, 2, 0]
    assert storage.load_tensors(ctx.synthetic_file).keys() == {"images", "labels", "generator/weight"}
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")
    synthesis.check_teacher(ctx)
    storage.save_model(models.build("resnet_cifar", **TEACHER), ctx.dense_folder)
    with pytest.raises(UserError, match="teacher_sha256"):
        synthesis.check_teacher(ctx)


def test_images_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UserError, match="finite"):
        synthesis.save_synthetic(
            SyntheticImages(torch.full((1, 1, 2, 2), torch.nan), torch.tensor([0])), context(tmp_path)
        )


def test_the_diversity_of_every_class_is_stored_beside_that_of_as_many_real_images(tmp_path):
    ctx, labels = context(tmp_path), torch.tensor([0, 2, 2, 2])
    image = torch.randn(1, 1, 8, 8)
    synthesis.save_synthetic(SyntheticImages(torch.cat([torch.randn(2, 1, 8, 8), image, image]), labels), ctx)
    found = read_json(tmp_path / "synthetic.json")["distance_within_class"]
    made, real = found["synthetic"], found["real"]
    assert made[0] == pytest.approx(0, abs=1e-6)  # alone in its class
    assert made[1] is None and made[2] > 1e-6
    assert ctx.records["intra_class_distance"] == pytest.approx((made[0] + 3 * made[2]) / 4)
    counts = torch.bincount(synthesis.real_images(ctx, 4, ctx.generator("reference")).labels, minlength=3).tolist()
    weighted = sum(n * d for n, d in zip(counts, real[:3], strict=True) if n)
    assert ctx.records["intra_class_distance_real"] == pytest.approx(weighted / 4)
    assert ctx.records["teacher_accuracy"] in (0, 25, 50, 75, 100)


def test_intra_class_distances():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    expected = (1 - 2**-0.5) * 2 / 3  # two at 45 degrees to their mean, one alone in its class
    distances = synthesis.intra_class_distances(features, torch.tensor([0, 0, 2]), 3)
    assert distances.mean().item() == pytest.approx(expected)
    assert distances[2].item() == pytest.approx(0, abs=1e-6)


def test_real_images_without_labels_get_those_that_the_teacher_gives_them(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    ctx.pair = ctx.pair.model_copy(update={"data": "photograph_crops"})
    ctx.data.train.labels.fill_(-1)
    images, labels = synthesis.real_images(ctx, 5, ctx.generator("reference"))
    assert len(images) == len(labels) == 5 and torch.equal(labels, synthesis.frozen_teacher(ctx)(images).argmax(1))
