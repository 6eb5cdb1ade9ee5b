"""Learning-rate schedules against their closed forms, and what the optimisers do with a recipe."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from compressbench.config import Recipe
from compressbench.training import State, adamw, make_optimizer, schedule_factor, stepwise_cosine


@pytest.mark.parametrize("steps", [18, Fraction(18), Fraction(35, 2)])
def test_a_cosine_by_epoch_changes_at_the_first_step_of_an_epoch(steps: int | Fraction) -> None:
    recipe = Recipe(epochs=4, lr=1, schedule="cosine_by_epoch")
    factor, state = schedule_factor(recipe, 4, steps), State(nn.Identity(), [], 4, steps)
    for epoch in range(4):
        (rate,) = {factor(step) for step in range(state.first_step(epoch), state.first_step(epoch + 1))}
        assert rate == pytest.approx(0.5 * (1 + math.cos(math.pi * epoch / 4)), rel=1e-15)


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


def test_vectors_and_class_tokens_do_not_decay() -> None:
    model = nn.Module()
    model.class_token, model.positions = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(1, 5, 4))
    model.layer = nn.Linear(4, 4)
    groups = adamw(Recipe(epochs=1, lr=0.1, weight_decay=0.05), model).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "class_token": 0, "layer.bias": 0, "layer.weight": 0.05, "positions": 0.05
    }  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(0, 100), st.integers(0, 10), st.data())
def test_a_cosine_after_a_linear_warm_up_is_its_closed_form(
    epochs: int, more: int, warmup: int, data: st.DataObject
) -> None:
    steps = Fraction(epochs + more, epochs)
    recipe = Recipe(epochs=epochs, lr=1, warmup_epochs=min(warmup, epochs - 1))
    factor, step = schedule_factor(recipe, epochs, steps), data.draw(st.integers(0, epochs + more - 1))
    start, total = round(recipe.warmup_epochs * steps), epochs + more
    expected = (step + 1) / start if step < start else (1 + math.cos(math.pi * (step - start) / (total - start))) / 2
    assert factor(step) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_constant_rate_is_constant_after_its_warm_up() -> None:
    factor = schedule_factor(Recipe(epochs=4, lr=1, warmup_epochs=0.5, schedule="constant"), 4, 8)
    assert [factor(step) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1] and factor(31) == 1


def test_the_recipe_chooses_the_optimiser_and_a_group_its_own_options() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0, "lr": 7.0}]
    recipe = Recipe(epochs=1, lr=0.3, momentum=0.8, nesterov=True, weight_decay=1e-3)
    sgd = make_optimizer(recipe, groups)
    assert isinstance(sgd, torch.optim.SGD)
    assert [(g["lr"], g["weight_decay"], g["momentum"], g["nesterov"]) for g in sgd.param_groups] == [
        (0.3, 1e-3, 0.8, True), (7.0, 0.0, 0.8, True)
    ]  # fmt: skip
    adam = make_optimizer(recipe.model_copy(update={"optimizer": "adam"}), iter(weights))
    assert isinstance(adam, torch.optim.Adam) and not isinstance(adam, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in adam.param_groups] == [(0.3, 1e-3, 2)]
