"""Gradual magnitude pruning: the cubic schedule, nested masks, the exact end."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from compressbench.layers.masked import masked, masked_layers
from compressbench.pruning.masks import kept_weights, removed_count
from compressbench.training import Hook, State
from methods.baselines.gradual_magnitude.method import CubicSchedule, GradualMagnitude, GradualPruning
from tests.contexts import make_context

CUBIC = {0: 0, 10: 0.2439, 25: 0.5203125, 50: 0.7875, 75: 0.8859375, 100: 0.9, 500: 0.9}


@pytest.mark.parametrize(("step", "sparsity"), CUBIC.items())
def test_schedule_is_the_published_cubic(step: int, sparsity: float) -> None:
    assert CubicSchedule(sparsity=0.9, start=0, span=100).sparsity_at(step) == pytest.approx(sparsity, abs=1e-12)


@pytest.mark.parametrize("steps", [10, 99, 429, 2574])
def test_the_last_update_reaches_the_target_by_three_quarters_of_the_run(steps: int) -> None:
    schedule = CubicSchedule.over(0.95, steps, start=steps // 6, end=0.75, updates=100)
    updates = [t for t in range(steps) if schedule.updates(t)]
    sparsities = [schedule.sparsity_at(t) for t in updates]
    assert sparsities == sorted(sparsities)
    assert sparsities[0] == 0
    assert sparsities[-1] == 0.95
    assert updates[0] == steps // 6
    assert updates[-1] <= 0.75 * steps
    assert all(b - a == max(1, steps // 100) for a, b in pairwise(updates))


class Nested(Hook):
    """Remembers the masks of every step."""

    def __init__(self) -> None:
        self.masks: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, state: State) -> None:
        self.masks.append({name: layer.mask.clone() for name, layer in masked_layers(state.model).items()})


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_masks_are_nested_and_removed_weights_stay_zero(scope, data_root: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ctx, watch = make_context(data_root, tmp_path), Nested()
    model = ctx.build()
    schedule = CubicSchedule(sparsity=0.9, start=2, span=10, interval=2)
    ctx.fit(masked(model), ctx.recipes.scratch, hooks=[GradualPruning(schedule, scope), watch])
    for earlier, later in pairwise(watch.masks):
        assert all(not (later[name] & ~earlier[name]).any() for name in later)
    assert watch.masks[1]["classifier"].all()
    for layer in masked_layers(model).values():
        assert (layer.weight[~layer.mask] == 0).all()


def test_the_run_ends_with_exactly_the_target(data_root: Path, tmp_path: Path) -> None:
    model = GradualMagnitude(GradualMagnitude.Config(sparsity=0.95)).compress(make_context(data_root, tmp_path))
    total = sum(layer.weight.numel() for layer in masked_layers(model).values())
    assert kept_weights(model) == total - removed_count(total, 0.95)
