"""L1 filter pruning: ranking, equal cost, and its controls."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressbench import accounting, models
from compressbench.errors import UserError
from compressbench.layers.masked import masked_layers
from compressbench.pruning.filters import Widths, cost_of, inner_keys, uniform_widths, widths_within
from methods.baselines.l1_filter.method import (
    Budget,
    L1Filter,
    Shape,
    block_budget,
    cost,
    masked_filters,
    prunable_producers,
)
from tests.contexts import make_context

IMAGE = (1, 28, 28)


def plain(**arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return models.build("plain", **arguments)


def within(model: nn.Module, target: int, shape: Shape, budget: Budget) -> Widths:
    keys = prunable_producers(model)
    return widths_within(
        model, lambda rate: uniform_widths(model, keys, rate), lambda m: cost(m, shape, budget), target
    )


def test_first_layer_and_classifier_keep_their_width() -> None:
    assert prunable_producers(plain()) == ["body.1.conv", "body.2.conv", "body.3.conv", "body.4.conv"]


def test_layers_of_a_sum_keep_their_width() -> None:
    network = models.build("resnet_cifar", in_channels=1, blocks=(1, 1, 1))
    assert prunable_producers(network) == [f"stages.{s}.0.conv1" for s in range(3)]


@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9])
def test_as_many_weights_stay_as_in_the_block_methods(sparsity: float) -> None:
    model = plain()
    target = block_budget(model, sparsity, IMAGE, "weights")
    inner = 9 * (16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert target == pytest.approx(9 * 16 + 640 + (1 - sparsity) * inner, abs=4)
    widths = within(model, target, IMAGE, "weights")
    used = accounting.account(plain(inner_widths=widths), IMAGE).weights
    assert 0.9 * target < used <= target, "as near as whole filters allow"


def test_macs_of_mobilenet_match_within_one_percent() -> None:
    with torch.device("meta"):
        model = models.build("mobilenet_v1")
    target = block_budget(model, 0.5, (3, 224, 224), "macs")
    assert target == 298_994_176
    with torch.device("meta"):
        narrow = models.build("mobilenet_v1", inner_widths=within(model, target, (3, 224, 224), "macs"))
    assert cost(narrow, (3, 224, 224), "macs") == pytest.approx(target, rel=0.01)


def test_a_budget_out_of_reach_is_one_sentence() -> None:
    network = models.build("resnet_cifar", in_channels=1, blocks=(1, 1, 1), shortcut="conv")
    with pytest.raises(UserError, match="lower compression"):
        within(network, 100, IMAGE, "weights")


def test_masked_filters_are_zero_and_their_readers_are_not() -> None:
    model = masked_filters(plain(), {"body.1.conv": torch.tensor([i for i in range(32) if i not in (0, 5)])})
    mask = masked_layers(model)["body.1.conv"].mask
    assert (~mask).flatten(1).all(1).nonzero()[:, 0].tolist() == [0, 5]
    assert int((~mask).sum()) == 2 * 16 * 9
    assert list(masked_layers(model)) == ["body.1.conv"]


@pytest.mark.parametrize("options", [{}, {"filters": "random"}, {"weights": "scratch"}, {"budget": "macs"}])
def test_controls_have_the_same_widths(data_root: Path, tmp_path: Path, options: dict[str, str]) -> None:
    ctx = make_context(data_root, tmp_path)
    model = L1Filter(L1Filter.Config(sparsity=0.3, **options)).compress(ctx)
    dense = ctx.dense()
    widths = {n: model.get_submodule(n).weight.shape[0] for n in prunable_producers(dense)}
    shape = (1, ctx.info.size, ctx.info.size)
    budget = options.get("budget", "weights")
    assert widths == within(dense, block_budget(dense, 0.3, shape, budget), shape, budget)
    inherited = [bool(torch.isin(model.get_submodule(n).weight, dense.get_submodule(n).weight).all()) for n in widths]
    assert all(inherited) == (options.get("weights") != "scratch")


@pytest.mark.parametrize("cut", [0.3, 0.6])
def test_a_share_of_the_macs_is_cut_out_of_every_inner_layer(data_root: Path, tmp_path: Path, cut: float) -> None:
    ctx = make_context(data_root, tmp_path)
    model, dense = L1Filter(L1Filter.Config(macs_reduction=cut)).compress(ctx), ctx.dense()
    shape = ctx.info.image_shape
    left = cost(model, shape, "macs") / cost(dense, shape, "macs")
    assert 1 - cut - 0.2 < left <= 1 - cut, "whole filters of a tiny network"
    widths = {key: len(model.get_submodule(key).weight) for key in inner_keys(dense)}
    assert cost_of(dense, widths, lambda m: cost(m, shape, "macs")) == cost(model, shape, "macs")
    with pytest.raises(ValueError, match="physical"):
        L1Filter.Config(macs_reduction=0.5, form="masked")


def test_scratch_trains_for_the_total_budget(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, used = make_context(data_root, tmp_path, "finetune"), []
    monkeypatch.setattr(ctx, "fit", lambda model, recipe: used.append(recipe) or model)
    monkeypatch.setattr(type(ctx), "recipes", SimpleNamespace(scratch="total", finetune="after"))
    for weights in ("inherited", "scratch"):
        L1Filter(L1Filter.Config(weights=weights)).finetune(ctx, nn.Identity())
    assert used == ["after", "total"]


def test_masked_form_sets_the_rate_in_every_prunable_layer(data_root: Path, tmp_path: Path) -> None:
    model = L1Filter(L1Filter.Config(sparsity=0.5, form="masked")).compress(make_context(data_root, tmp_path))
    for layer in masked_layers(model).values():
        kept = layer.mask.flatten(1)
        assert torch.equal(kept.all(1), kept.any(1)) and float(kept.float().mean()) == 0.5
        assert layer.block is None
