"""The control for methods that cost several trainings: the same network, schedule stretched."""

import json
from pathlib import Path

import pytest

from compressbench.config import Recipe
from compressbench.training import schedule_factor
from compressbench.training.checkpoint import same_bits
from methods.baselines.longer_training.method import LongerTraining, stretched
from tests.contexts import full_size_context, make_context


@pytest.mark.parametrize(
    "schedule",
    [
        {"schedule": "step", "milestones": (4, 6)},
        {"schedule": "halve", "halve_every": 2},
        {"schedule": "cosine", "warmup_epochs": 2},
    ],
)
def test_the_learning_rate_is_that_of_the_same_part_of_the_training(schedule: dict) -> None:
    recipe = Recipe(epochs=8, lr=0.1, **schedule)
    longer = stretched(recipe, 4.5)
    short, long = schedule_factor(recipe, 8, 100), schedule_factor(longer, longer.epochs, 100)
    assert longer.epochs == 36
    for step in range(50, 800, 100):
        assert long(round(4.5 * step)) == pytest.approx(short(step), abs=0.01)


def test_it_trains_longer_and_otherwise_like_the_network_alone(data_root: Path, tmp_path: Path) -> None:
    rows: dict[str, list[dict]] = {}

    class Rows:
        def __init__(self, name: str) -> None:
            self.own = rows.setdefault(name, [])

        def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
            self.own.append(metrics)

    def train(name: str, factor: float) -> dict:
        ctx = make_context(data_root, tmp_path / name, epochs=2, steps_per_epoch=2)
        ctx.logger = Rows(name)
        return LongerTraining(LongerTraining.Config(factor=factor)).compress(ctx).state_dict()

    alone = make_context(data_root, tmp_path / "alone", epochs=2, steps_per_epoch=2)
    assert same_bits(train("as_long", 1), alone.fit(alone.build(), alone.recipes.scratch).state_dict())
    train("longer", 4.5)
    assert [len(own) for own in rows.values()] == [2, 9] and rows["longer"][-1]["steps"] == 18
    assert json.dumps(rows["as_long"][0]["loss"]) == json.dumps(rows["longer"][0]["loss"])  # the same start


def test_one_iteration_at_full_size(tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, "cifar100/resnet20_conv", "longer_training", "unchanged")
    network = LongerTraining(LongerTraining.Config(factor=1)).compress(ctx)
    assert not same_bits(ctx.build().state_dict(), network.state_dict())
