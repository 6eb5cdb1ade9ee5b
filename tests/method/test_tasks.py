"""What depends on the task: batches, loss, what is held out, and how a network is evaluated."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from compressbench.config import Recipe, Workload
from compressbench.data import DATASETS, ImagePair, Split, info
from compressbench.errors import UserError
from compressbench.method.tasks import TASKS, Beside
from compressbench.seeding import generator

RECIPE = Recipe(epochs=1, lr=0.1, batch_size=4)
PLAIN = Workload(architecture="plain")


def split(count: int, side: int = 8) -> Split:
    """Image i is labelled i modulo 3."""
    return Split(torch.rand(count, 1, side, side, generator=generator(count)), torch.arange(count) % 3)


def test_every_data_set_has_a_task() -> None:
    assert {entry.info.task for entry in DATASETS.values()} == TASKS.keys()


# ---- classification


def classified(**parts: object) -> SimpleNamespace:
    return SimpleNamespace(
        **{"train": split(20), "validation": split(6), "test": split(9), "info": info("digits")} | parts
    )


def test_batches_are_those_of_the_recipe() -> None:
    batches = TASKS["classification"].batches(classified(), PLAIN, RECIPE, seed=3)
    assert batches.steps_per_epoch == 5 and batches(0)[0].shape == (4, 1, 8, 8)
    again = TASKS["classification"].batches(classified(), PLAIN, RECIPE, seed=3)
    assert torch.equal(batches(7)[1], again(7)[1])


def test_the_first_2000_validation_images_are_looked_at() -> None:
    held_out = TASKS["classification"].held_out(classified(validation=split(2100)))
    assert len(held_out) == 2000 and torch.equal(held_out.images, split(2100).images[:2000])
    assert len(TASKS["classification"].held_out(classified())) == 6
    assert TASKS["classification"].trained_classes(classified()) == 10


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_share_a_part_among_all_classes(smoothing: float) -> None:
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 2, 2, 1])
    target = (1 - smoothing) * nn.functional.one_hot(labels, 4) + smoothing / 4
    loss = TASKS["classification"].loss(RECIPE.model_copy(update={"label_smoothing": smoothing}))
    torch.testing.assert_close(loss(nn.Identity(), (logits, labels)), -(target * logits.log_softmax(1)).sum(1).mean())


def test_accuracy_is_that_on_the_test_images(tmp_path: Path) -> None:
    class Zero(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([1.0, 0, 0]).expand(len(images), 3)

    assert TASKS["classification"].evaluate(Zero(), classified(), Beside({}, tmp_path)) == {
        "top1": pytest.approx(100 / 3)
    }


# ---- sessions


def test_the_base_session_is_trained_and_sessions_are_judged_by_what_was_kept(tmp_path: Path) -> None:
    protocol = SimpleNamespace(session_len=(2, 1), crop_padding=0)
    loaded, task = classified(protocol=protocol), TASKS["class_incremental"]
    assert task.trained_classes(loaded) == 2 and len(task.held_out(loaded)) == 6
    images, _ = task.batches(loaded, PLAIN, RECIPE.model_copy(update={"augmentation": "crop_flip"}), 0)(0)
    known = torch.cat([loaded.train.images, loaded.train.images.flip(3)])
    assert all((known == image).flatten(1).all(1).any() for image in images), "crops without padding move nothing"
    labels = loaded.test.labels.short()
    kept = {"predictions/0/0": labels, "predictions/0/1": torch.where(labels == 2, 0, labels)}
    found = task.evaluate(nn.Identity(), loaded, Beside(kept, tmp_path))
    assert found["top1"] == pytest.approx(200 / 3) and found["sessions"][0]["accuracy"] == 100


# ---- super-resolution


def enlarged() -> SimpleNamespace:
    """A pair of 40 x 40 and 80 x 80 pixels."""
    random = generator("pictures")
    pair = ImagePair(
        "one", 255 * torch.rand(3, 40, 40, generator=random), 255 * torch.rand(3, 80, 80, generator=random)
    )
    return SimpleNamespace(train=[pair], test=[pair], upscaling=2)


@pytest.mark.parametrize(
    ("of_the_recipe", "of_the_pair", "side"), [(None, None, 32), (None, 12, 12), (10, 12, 10), (10, None, 10)]
)
def test_the_patch_of_the_recipe_comes_before_that_of_the_pair(
    of_the_recipe: int | None, of_the_pair: int | None, side: int
) -> None:
    task, pair = TASKS["super_resolution"], Workload(architecture="edsr", patch=of_the_pair)
    low, high = task.batches(enlarged(), pair, RECIPE.model_copy(update={"patch": of_the_recipe}), 0)(0)
    assert low.shape == (4, 3, side, side) and high.shape == (4, 3, 2 * side, 2 * side)


def test_costs_are_those_of_a_patch_and_of_an_image_elsewhere() -> None:
    about, task = info("photographs"), TASKS["super_resolution"]
    assert task.image_shape(about, Workload(architecture="edsr")) == (3, 32, 32)
    assert task.image_shape(about, Workload(architecture="edsr", patch=48)) == (3, 48, 48)
    assert TASKS["classification"].image_shape(info("digits"), PLAIN) == (1, 16, 16)


def test_pictures_are_trained_on_their_absolute_error_and_none_is_held_out(tmp_path: Path) -> None:
    task, loaded = TASKS["super_resolution"], enlarged()
    low, high = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert task.loss(RECIPE)(nn.Identity(), (low, high)) == (low - high).abs().mean()
    assert len(task.held_out(loaded)) == task.trained_classes(loaded) == 0
    found = task.evaluate(nn.Upsample(scale_factor=2), loaded, Beside({}, tmp_path))
    assert found.keys() == {"psnr", "ssim", "images"} and len(list((tmp_path / "images").iterdir())) == 3


# ---- fidelity


def test_without_labels_a_network_is_compared_with_the_dense_model_and_nothing_is_trained(tmp_path: Path) -> None:
    task, images = TASKS["fidelity"], torch.randn(5, 3, generator=generator("images"))
    loaded = classified(test=Split(images, torch.full((5,), -1)), validation=Split(images[:0], torch.empty(0)))
    assert not task.labelled and task.trained_classes(loaded) == len(task.held_out(loaded)) == 0
    found = task.evaluate(nn.Softplus(), loaded, Beside({}, tmp_path, nn.Identity()))
    assert found["agreement"] == 100 and found["kl_divergence"] > 0 and found.keys() >= {"logits_snr"}
    with pytest.raises(UserError, match="no labels"):
        task.loss(RECIPE)
