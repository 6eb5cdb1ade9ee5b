"""The loop: order of the hooks, resume to the bit, divergence."""

from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from compressbench.config import Recipe
from compressbench.errors import UserError
from compressbench.training import (
    Hook,
    LearningRate,
    State,
    fit,
    make_optimizer,
    schedule_factor,
)
from compressbench.training.checkpoint import Checkpoint, same_bits
from tests.training.runs import Kill, batch, cross_entropy, network


def fit_once(model: nn.Module, **options: Any) -> None:
    """One epoch of the loop with plain SGD."""
    fit(model, batch, cross_entropy, [torch.optim.SGD(model.parameters(), lr=0.1)], epochs=1, seed=0, **options)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kill_in", [1, 2, 4])
@pytest.mark.parametrize("steps", [4, Fraction(18, 5)], ids=str)
def test_a_killed_run_ends_with_the_same_bits(
    tmp_path: Path, optimizer: str, kill_in: int, steps: int | Fraction
) -> None:
    recipe = Recipe(epochs=5, lr=0.05, optimizer=optimizer)

    def train(folder: Path, *hooks: Hook) -> nn.Module:
        model = network()
        rate = LearningRate(schedule_factor(recipe, 5, steps))
        optimizers = [make_optimizer(recipe, model.parameters())]
        return fit(
            model, batch, cross_entropy, optimizers, epochs=5, steps_per_epoch=steps, seed=7,
            hooks=[rate, *hooks], checkpoint=Checkpoint(folder),
        )  # fmt: skip

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Kill(kill_in))
    resumed = train(tmp_path / "killed")
    assert same_bits(whole.state_dict(), resumed.state_dict())


class Drift(Hook):
    """How far a weight moves in an epoch; a scale of its own that every epoch sets anew; a metric of the epoch's start."""

    kept: ClassVar[tuple[str, ...]] = ("before",)

    def __init__(self) -> None:
        self.trained: list[int] = []

    def on_epoch_start(self, state: State) -> None:
        self.before = {"weight": state.model[0].weight.detach().clone()}  # type: ignore[index]
        self.scale = 1 + state.epoch
        state.metrics["start"] = self.before["weight"].sum().item()
        state.model[1].running_mean.mul_(2)  # type: ignore[index,union-attr,operator]

    def on_gradients(self, state: State) -> None:
        state.model[0].weight.grad.mul_(self.scale)  # type: ignore[index,union-attr,operator]
        self.trained.append(state.step)

    def on_epoch_end(self, state: State) -> None:
        state.metrics["drift"] = (state.model[0].weight - self.before["weight"]).norm().item()  # type: ignore[index]


@pytest.mark.parametrize(("kill", "resumed_at"), [(1, 0), (2, 2), (5, 4), (6, 6), (7, 6), (8, 8), (19, 18)])
def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, kill: int, resumed_at: int
) -> None:
    """Checkpoints after every second step; epochs of 8, of which step 7 is the last of the first one.

    A kill within a step comes before its checkpoint.
    """

    def train(name: str, *hooks: Hook) -> tuple[nn.Module, Drift, list[dict[str, float]]]:
        model, drift, rows = network(), Drift(), []

        class Rows:
            def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
                rows.append({"epoch": number} | metrics)

        fit(
            model, batch, cross_entropy, [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)], epochs=3,
            steps_per_epoch=8, seed=7, hooks=[drift, *hooks], checkpoint=Checkpoint(tmp_path / name, 2), logger=Rows(),
        )  # fmt: skip
        return model, drift, rows

    whole, _, history = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", Kill(step=kill))
    model, drift, rows = train("killed")
    assert drift.trained[0] == resumed_at
    assert same_bits(whole.state_dict(), model.state_dict())
    assert rows == history


@pytest.mark.parametrize(("steps", "epochs"), [(1248, 60), (468, 20), (1248, 8), (7, 5), (5, 5)])
def test_epochs_cover_all_steps_and_differ_by_one_at_most(steps: int, epochs: int) -> None:
    lengths: list[int] = []

    class Count(Hook):
        def on_epoch_start(self, state: State) -> None:
            lengths.append(0)

        def on_step_end(self, state: State) -> None:
            assert state.step == sum(lengths) and state.step * epochs // steps == state.epoch
            lengths[-1] += 1

        def on_epoch_end(self, state: State) -> None:
            assert state.metrics["steps"] == sum(lengths)

    model = nn.Linear(1, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(
        model, lambda step: torch.ones(1, 1), lambda m, x: m(x).sum(), [sgd],
        epochs=epochs, steps_per_epoch=Fraction(steps, epochs), seed=0, hooks=[Count()],
    )  # fmt: skip
    assert sum(lengths) == steps == State(model, [], epochs, Fraction(steps, epochs)).total_steps
    assert len(lengths) == epochs and max(lengths) - min(lengths) == (steps % epochs > 0)


def test_the_logged_loss_is_the_mean_over_the_steps_of_its_epoch() -> None:
    means: list[float] = []

    class Watch(Hook):
        def on_epoch_end(self, state: State) -> None:
            means.append(state.metrics["loss"])

    model = nn.Linear(1, 1)
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    fit(
        model, float, lambda m, x: 0 * m(torch.ones(1, 1)).sum() + x, [frozen],
        epochs=2, steps_per_epoch=Fraction(5, 2), seed=0, hooks=[Watch()],
    )  # fmt: skip
    assert means == [1.0, 3.5]  # the steps 0, 1, 2 and 3, 4


def test_hooks_are_called_in_order() -> None:
    calls: list[str] = []

    class Recorder(Hook):
        def __getattribute__(self, name: str):
            if name.startswith("on_"):
                return lambda state: calls.append(f"{name[3:]}{state.step}")
            return super().__getattribute__(name)

    model = network()
    fit_once(model, steps_per_epoch=2, hooks=[Recorder()])
    step = ["step_start{0}", "gradients{0}", "step_end{0}"]
    steps = [name.format(number) for number in (0, 1) for name in step]
    assert calls == ["start0", "epoch_start0", *steps, "epoch_end1"]


def test_eval_mode_training_keeps_batch_norm_statistics_and_trains_weights() -> None:
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit_once(model, steps_per_epoch=3, train_mode=False)
    after = model.state_dict()
    assert torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(before["0.weight"], after["0.weight"])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_divergence_stops_with_a_clear_sentence(value: str) -> None:
    model = network()
    with pytest.raises(UserError, match=f"training diverged: the loss of epoch 0 is {value}"):
        fit(
            model, batch, lambda m, b: cross_entropy(m, b) * float(value), [torch.optim.SGD(model.parameters(), lr=0.1)],
            epochs=1, steps_per_epoch=1, seed=0,
        )  # fmt: skip
