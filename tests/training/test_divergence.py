"""The alarm for networks that have collapsed to chance."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench.errors import UserError
from compressbench.training import chance_alarm
from tests.contexts import make_context


def epochs(*accuracies: float) -> list[dict[str, float]]:
    return [{"epoch": e, "loss": 2.3026, "validation_top1": value} for e, value in enumerate(accuracies)]


def test_collapse_to_chance_stops_after_two_epochs() -> None:
    alarm = chance_alarm(classes=10, images=2000, warmup_epochs=1)
    for fine in ([10.0], [10.0, 10.0], [10.0, 9.8, 30.0, 10.2], [10.0, 12.5, 12.5]):
        alarm(epochs(*fine))
    with pytest.raises(UserError, match=r"collapsed: the accuracy is 11\.9 %, chance.*loss 2\.3026"):
        alarm(epochs(60.0, 10.0, 11.9))
    chance_alarm(10, 2000, warmup_epochs=5)(epochs(*[10.0] * 6))
    chance_alarm(10, 2000, warmup_epochs=1, slices=3)(epochs(*[10.0] * 8))
    with pytest.raises(UserError, match="for 6 epochs"):
        chance_alarm(10, 2000, warmup_epochs=1, slices=3)(epochs(*[10.0] * 9))


def test_a_dead_network_is_stopped_by_the_shared_loop(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, epochs=4)
    dead = ctx.build()
    nn.init.zeros_(dead.classifier.weight)
    dead.requires_grad_(False)
    dead.classifier.bias = nn.Parameter(torch.zeros(10))
    with pytest.raises(UserError, match="training collapsed"):
        ctx.fit(dead, ctx.recipes.scratch)


@pytest.mark.parametrize(
    ("classes", "images", "chance"),
    [(2, 100, 65.0), (10, 400, 14.5), (100, 99, 4.0)],  # 100 (p + 3 √(p (1 - p) / n))
)
def test_chance_ends_three_standard_errors_above_one_over_the_classes(classes: int, images: int, chance: float) -> None:
    alarm = chance_alarm(classes, images, warmup_epochs=0)
    alarm(epochs(0, chance + 1e-6, chance + 1e-6))
    alarm(epochs(0, chance - 1e-6))
    with pytest.raises(UserError, match="for 2 epochs"):
        alarm(epochs(0, chance - 1e-6, chance - 1e-6))


def test_a_training_that_measures_something_else_is_not_stopped() -> None:
    chance_alarm(10, 2000, 0)([{"epoch": e, "loss": 1.0} for e in range(9)])
    with pytest.raises(UserError, match="collapsed"):
        chance_alarm(10, 2000, 0, metric="top1")([{"epoch": e, "loss": 1.0, "top1": 10.0} for e in range(3)])


def test_fewer_images_than_half_the_classes_tell_nothing() -> None:
    chance_alarm(1000, 40, warmup_epochs=0)(epochs(*[0.0] * 9))
    with pytest.raises(UserError, match="collapsed"):
        chance_alarm(1000, 1000, warmup_epochs=0)(epochs(*[0.0] * 9))
