"""The loop: order of the hooks, resume to the bit, divergence."""

import math
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from compressbench import models
from compressbench.config import Recipe
from compressbench.errors import UserError
from compressbench.seeding import derive_seed, generator
from compressbench.training import (
    Hook,
    LearningRate,
    State,
    WeightAverage,
    adamw,
    chance_alarm,
    fit,
    make_optimizer,
    schedule_factor,
    stepwise_cosine,
)
from compressbench.training.checkpoint import Checkpoint, same_bits
from compressbench.training.layout import gradients_like_activations
from tests.contexts import make_context


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


@pytest.mark.parametrize("steps", [18, Fraction(18), Fraction(35, 2)])
def test_a_cosine_by_epoch_changes_at_the_first_step_of_an_epoch(steps: int | Fraction) -> None:
    recipe = Recipe(epochs=4, lr=1, schedule="cosine_by_epoch")
    factor, state = schedule_factor(recipe, 4, steps), State(nn.Identity(), [], 4, steps)
    for epoch in range(4):
        (rate,) = {factor(step) for step in range(state.first_step(epoch), state.first_step(epoch + 1))}
        assert rate == pytest.approx(0.5 * (1 + math.cos(math.pi * epoch / 4)), rel=1e-15)


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


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_divergence_stops_with_a_clear_sentence(value: str) -> None:
    model = network()
    with pytest.raises(UserError, match=f"training diverged: the loss of epoch 0 is {value}"):
        fit(
            model, batch, lambda m, b: cross_entropy(m, b) * float(value), [torch.optim.SGD(model.parameters(), lr=0.1)],
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


def test_milestones_divide_the_rate_by_ten_after_the_warmup() -> None:
    """CLR-RNF's and DCFF's ImageNet schedule, with 100 steps per epoch and a rate of 0.1."""
    recipe = Recipe(epochs=90, lr=0.1, warmup_epochs=5, schedule="step", milestones=(30, 60, 80))
    factor = schedule_factor(recipe, 90, 100)
    rates = {(0, 0): 2e-4, (4, 99): 0.1, (29, 99): 0.1, (30, 0): 0.01, (60, 0): 1e-3, (80, 0): 1e-4, (89, 99): 1e-4}
    for (epoch, iteration), rate in rates.items():
        assert recipe.lr * factor(100 * epoch + iteration) == pytest.approx(rate, rel=1e-12)


def test_cosine_by_epoch_is_constant_inside_an_epoch() -> None:
    recipe = Recipe(epochs=25, lr=1, warmup_epochs=5, schedule="cosine_by_epoch")
    factor = schedule_factor(recipe, 25, 10)
    assert factor(50) == factor(59) == 1.0
    assert factor(150) == factor(159) == pytest.approx(0.5)
    assert factor(249) == pytest.approx(0.5 * (1 + math.cos(math.pi * 19 / 20)))


@pytest.mark.parametrize(("length", "first"), [(90, 1.98297e-4), (150, 1.99414e-4)])
def test_the_warm_up_of_a_cosine_by_epoch_multiplies_the_cosine(length: int, first: float) -> None:
    recipe = Recipe(epochs=length, lr=0.1, warmup_epochs=5, schedule="cosine_by_epoch")
    factor = schedule_factor(recipe, length, 100)
    assert recipe.lr * factor(0) == pytest.approx(first, rel=3e-6)
    assert factor(499) == pytest.approx(0.5 * (1 + math.cos(math.pi / (length - 5)))) and factor(500) == 1
    with pytest.raises(ValidationError, match="fewer warmup_epochs than epochs"):
        Recipe(epochs=5, lr=0.1, warmup_epochs=5, schedule="cosine_by_epoch")


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


def test_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    assert derive_seed(0, "compress", "noise") == derive_seed(0, "compress", "noise")
    assert len({derive_seed(a, b) for a in range(5) for b in ("x", "y")}) == 10


def test_the_average_of_the_weights_survives_a_kill(tmp_path: Path) -> None:
    recipe, steps = Recipe(epochs=3, lr=0.05, weight_decay=0.1), []

    def train(folder: Path, *hooks: Hook) -> nn.Module:
        model = network()
        optimizer = adamw(recipe, model)
        average = WeightAverage(optimizer, 0.9)
        more = {"epochs": 3, "steps_per_epoch": 4, "seed": 0, "checkpoint": Checkpoint(folder)}
        fit(model, batch, cross_entropy, [optimizer], hooks=[average, *hooks], **more)  # type: ignore[arg-type]
        average.apply()
        return model

    class Remember(Hook):
        def on_step_end(self, state: State) -> None:
            steps.append(state.model[0].weight.detach().clone())

    whole = train(tmp_path / "whole", Remember())
    expected = steps[0]
    for weight in steps[1:]:
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(whole[0].weight, expected, atol=1e-6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Kill(1))
    assert same_bits(whole.state_dict(), train(tmp_path / "killed").state_dict())


def test_vectors_and_class_tokens_do_not_decay() -> None:
    model = nn.Module()
    model.class_token, model.positions = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(1, 5, 4))
    model.layer = nn.Linear(4, 4)
    groups = adamw(Recipe(epochs=1, lr=0.1, weight_decay=0.05), model).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "class_token": 0, "layer.bias": 0, "layer.weight": 0.05, "positions": 0.05
    }  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "warmup", "rates"),
    [
        (600, 5, {0: 0.02, 1: 0.04, 2: 0.06, 3: 0.08, 4: 0.1, 5: 0.0999993054, 300: 0.0505271031, 599: 6.946183e-07}),
        (20, 5, {5: 0.0990392640, 10: 0.0691341717, 19: 0.0009607360}),
        (400, 5, {4: 0.1, 5: 0.1 / 2 * (1 + math.cos(math.pi / 396))}),
        (150, 0, {0: 0.1, 75: 0.05, 149: 0.1 / 2 * (1 + math.cos(math.pi * 149 / 150))}),
    ],
)
def test_a_stepwise_cosine_changes_between_epochs_only(epochs: int, warmup: int, rates: dict[int, float]) -> None:
    factor = stepwise_cosine(epochs, 7, warmup)
    for epoch, rate in rates.items():
        assert [0.1 * factor(7 * epoch + step) for step in range(7)] == pytest.approx([rate] * 7, rel=1e-6)


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_gradients_in_the_format_of_the_activations_change_no_bit(shortcut: str) -> None:
    def train(wrapped: bool) -> tuple[dict[str, Tensor], list[bool]]:
        torch.manual_seed(0)
        model = models.build("resnet_cifar", in_channels=1, blocks=[1, 1, 1], widths=[8, 16, 32], shortcut=shortcut)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer, formats = torch.optim.SGD(model.parameters(), lr=0.1), []
        images, labels = torch.randn(2, 16, 1, 12, 12), torch.arange(16) % 10

        def watch(gradient: Tensor) -> None:
            formats.append(gradient.is_contiguous(memory_format=torch.channels_last))

        def watched(module: nn.Module, inputs: object, output: Tensor) -> None:
            output.register_hook(watch)

        with gradients_like_activations(model) if wrapped else nullcontext():
            watching = [stage[0].relu2.register_forward_hook(watched) for stage in model.stages]
            for batch in images:
                optimizer.zero_grad()
                F.cross_entropy(model(batch), labels).backward()
                optimizer.step()
        for handle in watching:
            handle.remove()
        assert not any(m._forward_hooks for m in model.modules())
        return model.state_dict(), formats

    plain, contiguous = train(wrapped=False)
    followed, formats = train(wrapped=True)
    assert same_bits(plain, followed)
    assert all(formats) and not all(contiguous)
