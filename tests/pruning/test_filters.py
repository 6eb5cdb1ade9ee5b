"""Widths from rates and budgets, and the simple selections."""

import pytest
import torch
from torch import nn

from compressbench import accounting, models
from compressbench.errors import UserError
from compressbench.pruning.filters import (
    couplings_like,
    macs,
    random_filters,
    strongest_filters,
    uniform_widths,
    widths_from_rates,
    widths_within,
)


def meta(architecture: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return models.build(architecture, **arguments)


def test_widths_round_as_the_published_code_does() -> None:
    """int(160 (1 - 0.8)) is 31 in double precision, not 32: GoogLeNet's published counts need it."""
    model = meta("plain", widths=[160, 160, 320], strides=[1, 1, 1])
    assert list(widths_from_rates(model, {"*": [0.8, 0.9, 0.9]}).values()) == [31, 15, 31]


def test_the_last_matching_pattern_gives_the_rate() -> None:
    model = meta("googlenet")
    widths = widths_from_rates(model, {"*": 0, "*.reduce3.conv": 0.5, "body.a3.*": 0.25})
    assert (widths["body.stem.conv"], widths["body.a3.reduce3.conv"], widths["body.b3.reduce3.conv"]) == (192, 72, 64)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"*": [0.5, 0.5]}, "2 rates for 3 widths"),
        ({"body.0.conv": 0.5}, r"none for body\.1\.conv"),
        ({"*": 1.0}, "below 1"),
        ({"*": -0.1}, "at least 0"),
        ({"*": [0.5, 0.95, 0.5]}, r"no filter of body\.1\.conv"),
        ({"stem": 0.5}, r"no free width is called like 'stem'.*body\.0\.conv"),
    ],
)
def test_wrong_rates_are_one_sentence(rates: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        widths_from_rates(meta("plain", widths=[8, 8, 8], strides=[1, 1, 1]), rates)


def test_uniform_widths_are_c_minus_floor_of_the_rate_and_at_least_one() -> None:
    model = meta("plain")
    keys = list(couplings_like(model, ["body.[1-4].*"]))
    assert list(uniform_widths(model, keys, 0.29).values()) == [23, 23, 46, 46]
    assert list(uniform_widths(model, keys, 1.0).values()) == [1, 1, 1, 1]


def test_bisection_finds_the_widest_network_within_the_budget() -> None:
    model, shape = meta("resnet_cifar", blocks=[2, 2, 2]), (3, 32, 32)
    keys, cost = [c.key for c in model.inner_couplings()], macs(shape)
    target = 0.5 * cost(model)
    widths = widths_within(model, lambda rate: uniform_widths(model, keys, rate), cost, target)
    used = accounting.flops(meta("resnet_cifar", blocks=[2, 2, 2], inner_widths=widths), shape)
    assert 0.99 * target < used <= target
    assert set(widths) == set(keys)
    assert max(w / 16 for k, w in widths.items() if k.startswith("stages.0")) - min(w / 64 for w in widths.values()) < 2
    for key in keys:
        more = accounting.flops(
            meta("resnet_cifar", blocks=[2, 2, 2], inner_widths=widths | {key: widths[key] + 2}), shape
        )
        assert more > target, "no layer has room for two more"


def test_the_strongest_filters_have_the_largest_norm_and_keep_their_order() -> None:
    weight = torch.tensor([3.0, -1.0, 2.0, 0.5])[:, None, None, None].expand(4, 2, 3, 3)
    assert strongest_filters(weight, 2).tolist() == [0, 2]
    assert strongest_filters(torch.ones(4, 1), 2).tolist() == [2, 3]
    assert strongest_filters(weight, 4).tolist() == [0, 1, 2, 3]


def test_random_filters_are_ascending_and_follow_the_seed() -> None:
    draws = [random_filters(torch.zeros(20, 1), 7, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0], draws[0].unique()) and len(draws[0]) == 7
