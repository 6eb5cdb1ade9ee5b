"""Exact counts, stable ties, nesting and what a removed weight does during training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compressbench import models
from compressbench.layers.masked import masked_layers
from compressbench.pruning.masks import (
    apply_masks,
    densities,
    global_masks,
    keep_largest,
    kept_weights,
    layerwise_masks,
    prunable,
    random_masks,
    regrown_fraction,
    removed_count,
    zero_removed,
)

SHAPES = {"a": torch.Size([4, 3, 3, 3]), "b": torch.Size([7, 4]), "c": torch.Size([11])}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3)
    )


@given(st.integers(1, 500), st.integers(0, 100))
def test_removed_count_is_the_floor_of_the_decimal_product(count: int, percent: int) -> None:
    assert removed_count(count, percent / 100) == percent * count // 100


def test_removed_count_refuses_what_is_no_fraction() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        removed_count(10, 1.5)


def test_smallest_entries_go_and_the_earlier_of_equal_ones_first() -> None:
    assert keep_largest(torch.tensor([2.0, 1.0, 1.0, 3.0, 1.0]), 2).tolist() == [True, False, False, True, True]


@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.98])
def test_counts_are_exact_globally_and_per_layer(sparsity: float) -> None:
    scores = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    total = sum(s.numel() for s in scores.values())
    assert sum(int(m.sum()) for m in global_masks(scores, sparsity).values()) == total - removed_count(total, sparsity)
    for name, mask in layerwise_masks(scores, sparsity).items():
        assert mask.shape == SHAPES[name]
        assert int(mask.sum()) == mask.numel() - removed_count(mask.numel(), sparsity)


def test_global_masks_compare_across_layers() -> None:
    scores = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    masks = global_masks(scores, 0.5)
    kept = torch.cat([scores[n][masks[n]] for n in SHAPES])
    removed = torch.cat([scores[n][~masks[n]] for n in SHAPES])
    assert removed.max() <= kept.min()


def test_prunable_layers_leave_out_first_and_last_on_request() -> None:
    assert list(prunable(network())) == ["0", "3", "5"]
    assert list(prunable(network(), keep_first=True, keep_last=True)) == ["3"]


def test_applied_masks_remove_weights_from_forward_and_from_the_weights_themselves() -> None:
    model, x = network(), torch.randn(2, 1, 6, 6)
    masks = layerwise_masks({n: m.weight.detach().abs() for n, m in prunable(model).items()}, 0.5)
    expected = network()
    with torch.no_grad():
        for name, mask in masks.items():
            expected.get_submodule(name).weight.mul_(mask)
    apply_masks(model, masks)
    assert torch.equal(model.eval()(x), expected.eval()(x))
    assert all((layer.weight[~layer.mask] == 0).all() for layer in masked_layers(model).values())
    assert kept_weights(model) == sum(int(m.sum()) for m in masks.values())
    assert densities(model)["0"] == 0.5


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.1), torch.optim.Adam]
)
def test_fixed_masks_hold_through_training_without_any_hook(make) -> None:  # type: ignore[no-untyped-def]
    model = network()
    apply_masks(model, layerwise_masks({n: m.weight.detach().abs() for n, m in prunable(model).items()}, 0.5))
    optimizer = make(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 6, 6)).square().mean().backward()
        optimizer.step()
    for layer in masked_layers(model).values():
        assert (layer.weight[~layer.mask] == 0).all()
        assert (layer.weight.grad[~layer.mask] == 0).all()  # type: ignore[index]
        assert (layer.weight[layer.mask] != 0).all()


def test_removing_weights_during_training_clears_their_momentum_only() -> None:
    model = network()
    apply_masks(model, {n: torch.ones_like(m.weight, dtype=torch.bool) for n, m in prunable(model).items()})
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    model(torch.randn(4, 1, 6, 6)).square().mean().backward()
    optimizer.step()
    layer = masked_layers(model)["3"]
    layer.mask[0] = False
    momentum = optimizer.state[layer.weight]["momentum_buffer"]
    kept = momentum[1:].clone()
    zero_removed(model, [optimizer])
    assert (layer.weight[0] == 0).all()
    assert (momentum[0] == 0).all()
    assert torch.equal(momentum[1:], kept)


def test_exchanged_is_the_share_of_kept_entries_that_were_removed_before() -> None:
    before = {"a": torch.tensor([True, True, False, False])}
    assert regrown_fraction(before, {"a": torch.tensor([True, False, True, False])}) == 0.5
    assert regrown_fraction(before, before) == 0


def test_one_shot_global_magnitude_keeps_the_specified_number_of_resnet32() -> None:
    """p = 0.9 on ResNet-32 (32-64-128, 10 classes, all layers): 184,535 of 1,845,344 weights."""
    torch.manual_seed(0)
    arguments = {"blocks": (5, 5, 5), "widths": (32, 64, 128), "shortcut": "pad"}
    model = models.build("resnet_cifar", **arguments)
    weights = {name: layer.weight.detach().abs() for name, layer in prunable(model).items()}
    assert sum(w.numel() for w in weights.values()) == 1_845_344
    masks = global_masks(weights, 0.9)
    assert sum(int(m.sum()) for m in masks.values()) == 184_535


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_random_masks_are_seeded_exact_and_overlap_as_chance_has_it(scope) -> None:  # type: ignore[no-untyped-def]
    shapes = {"a": torch.Size([200, 100]), "b": torch.Size([100, 50])}
    draw = [random_masks(shapes, 0.8, scope, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert all(torch.equal(draw[0][n], draw[1][n]) for n in shapes)
    assert sum(int(m.sum()) for m in draw[0].values()) == 5000
    if scope == "layerwise":
        assert [int(m.sum()) for m in draw[0].values()] == [4000, 1000]
    overlap = sum(int((draw[0][n] & draw[2][n]).sum()) for n in shapes) / 5000
    assert overlap == pytest.approx(0.2, abs=0.03)
