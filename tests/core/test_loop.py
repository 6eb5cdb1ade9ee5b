"""The loop: order of the hooks, resume to the bit, divergence."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressbench.config import Recipe
from compressbench.errors import UserError
from compressbench.seeding import derive_seed, generator
from compressbench.training import Hook, LearningRate, State, fit, make_optimizer, schedule_factor
from compressbench.training.checkpoint import Checkpoint, same_bits


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = generator("batch", step)
    return torch.randn(16, 6, generator=random), torch.randint(0, 3, (16,), generator=random)


def cross_entropy(model: nn.Module, pair: tuple) -> torch.Tensor:
    return F.cross_entropy(model(pair[0]), pair[1])


class Kill(Hook):
    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_step_end(self, state: State) -> None:
        if state.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kill_in", [1, 2, 4])
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, optimizer: str, kill_in: int) -> None:
    recipe = Recipe(epochs=5, lr=0.05, optimizer=optimizer)

    def train(folder: Path, *hooks: Hook) -> nn.Module:
        model = network()
        rate = LearningRate(schedule_factor(recipe, 5, 4))
        optimizers = [make_optimizer(recipe, model.parameters())]
        return fit(
            model, batch, cross_entropy, optimizers, epochs=5, steps_per_epoch=4, seed=7,
            hooks=[rate, *hooks], checkpoint=Checkpoint(folder),
        )  # fmt: skip

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Kill(kill_in))
    resumed = train(tmp_path / "killed")
    assert same_bits(whole.state_dict(), resumed.state_dict())


def test_hooks_are_called_in_order() -> None:
    calls: list[str] = []

    class Recorder(Hook):
        def __getattribute__(self, name: str):
            if name.startswith("on_"):
                return lambda state: calls.append(f"{name[3:]}{state.step}")
            return super().__getattribute__(name)

    model = network()
    fit(
        model,
        batch,
        cross_entropy,
        [torch.optim.SGD(model.parameters(), lr=0.1)],
        epochs=1,
        steps_per_epoch=2,
        seed=0,
        hooks=[Recorder()],
    )
    step = ["step_start{0}", "gradients{0}", "step_end{0}"]
    steps = [name.format(number) for number in (0, 1) for name in step]
    assert calls == ["start0", "epoch_start0", *steps, "epoch_end1"]


def test_eval_mode_training_keeps_batch_norm_statistics_and_trains_weights() -> None:
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit(
        model,
        batch,
        cross_entropy,
        [torch.optim.SGD(model.parameters(), lr=0.1)],
        epochs=1,
        steps_per_epoch=3,
        seed=0,
        train_mode=False,
    )
    after = model.state_dict()
    assert torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_divergence_stops_with_a_clear_sentence() -> None:
    model = network()
    with pytest.raises(UserError, match=r"training diverged: the loss of epoch 0 is nan"):
        fit(
            model, batch, lambda m, b: cross_entropy(m, b) * float("nan"), [torch.optim.SGD(model.parameters(), lr=0.1)],
            epochs=1, steps_per_epoch=1, seed=0,
        )  # fmt: skip


def test_warmup_then_cosine() -> None:
    factor = schedule_factor(Recipe(epochs=4, lr=1, warmup_epochs=1), epochs=4, steps_per_epoch=10)
    assert [factor(0), factor(9), factor(10)] == pytest.approx([0.1, 1.0, 1.0])
    assert factor(25) == pytest.approx(0.5)
    assert 0 < factor(39) < 0.01


def test_halving() -> None:
    factor = schedule_factor(Recipe(epochs=6, lr=1, schedule="halve", halve_every=2), epochs=6, steps_per_epoch=5)
    assert [factor(0), factor(9), factor(10), factor(29)] == [1, 1, 0.5, 0.25]


def test_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    assert derive_seed(0, "compress", "noise") == derive_seed(0, "compress", "noise")
    assert len({derive_seed(a, b) for a in range(5) for b in ("x", "y")}) == 10
