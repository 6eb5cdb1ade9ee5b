"""UDFC: the acceptance checks of its specification, and the counts of the networks that the paper names."""

import time
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from compressbench import accounting, storage
from compressbench.layers.packing import packed_tensors
from compressbench.layers.quantized import QuantConv2d
from compressbench.plan import Plan
from compressbench.reporting.published import _compare
from compressbench.training.batchnorm_statistics import recompute_statistics
from compressbench.training.checkpoint import same_bits
from methods.udfc.counts import PUBLISHED, recompute
from methods.udfc.method import UDFC
from methods.udfc.reconstruction import channels, closed_form, errors
from tests.conftest import ROOT
from tests.contexts import full_size_context, make_context

from .data_free import Given, plain, random

ALPHA1, ALPHA2 = 0.01, 0.008


def method(**options: object) -> UDFC:
    return UDFC(UDFC.Config(**options))


def network(widths: tuple[int, ...] = (10, 8), **arguments: object) -> nn.Module:
    return plain(*widths, **arguments)


# ---- closed form


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows [9, 20], offsets [9], 5 kept channels, and their rows after rounding."""
    rows, offsets, kept = random(9, 20), random(9, seed=1), torch.tensor([0, 2, 3, 6, 8])
    return rows, offsets, kept, (rows[kept] * 4).round() / 4


def objective(mixing: Tensor, alpha1: float = ALPHA1, alpha2: float = ALPHA2) -> Tensor:
    """The specification's l_j, column by column."""
    rows, offsets, kept, rounded = problem()
    total = []
    for j in range(9):
        column = mixing[:, j]
        own = torch.tensor([float(kept[i] == j) for i in range(5)], dtype=torch.float64)
        row = ((rows[j] - rounded.T @ column) ** 2).sum()
        total.append(row + alpha1 * (offsets[j] - offsets[kept] @ column) ** 2 + alpha2 * ((column - own) ** 2).sum())
    return torch.stack(total)


def test_the_gradient_of_the_objective_vanishes_at_the_closed_form() -> None:
    mixing = closed_form(*problem(), ALPHA1, ALPHA2).requires_grad_()
    torch.testing.assert_close(errors(mixing, *problem(), ALPHA1, ALPHA2), objective(mixing))
    (gradient,) = torch.autograd.grad(objective(mixing).sum(), mixing)
    assert gradient.abs().max() < 1e-8


def test_gradient_descent_ends_at_the_closed_form() -> None:
    _, offsets, kept, rounded = problem()
    mixing = torch.zeros(5, 9, dtype=torch.float64, requires_grad=True)
    hessian = 2 * (rounded @ rounded.T + ALPHA1 * torch.outer(offsets[kept], offsets[kept]) + ALPHA2 * torch.eye(5))
    rate = 1 / torch.linalg.eigvalsh(hessian).max()
    for _ in range(2000):
        (gradient,) = torch.autograd.grad(errors(mixing, *problem(), ALPHA1, ALPHA2).sum(), mixing)
        mixing.data -= rate * gradient
    assert (mixing.detach() - closed_form(*problem(), ALPHA1, ALPHA2)).abs().max() < 5e-9


def test_no_column_is_worse_than_naive_and_every_perturbation_is() -> None:
    kept = problem()[2]
    best, naive = closed_form(*problem(), ALPHA1, ALPHA2), torch.eye(9, dtype=torch.float64)[kept]
    assert bool((objective(best) <= objective(naive)).all())
    for seed in range(5):
        assert bool((objective(best + 1e-3 * random(5, 9, seed=seed)) > objective(best)).all())


def test_without_rounding_kept_channels_are_themselves() -> None:
    rows, offsets, kept, _ = problem()
    mixing = closed_form(rows, offsets, kept, rows[kept], ALPHA1, ALPHA2)
    assert torch.equal(mixing[:, kept], torch.eye(5, dtype=torch.float64))
    assert bool((mixing[:, 1] != 0).any())


def test_the_ridge_pulls_kept_channels_to_themselves() -> None:
    rows, offsets, kept, rounded = problem()
    mixing = closed_form(rows, offsets, kept, rounded, ALPHA1, 1e9)
    torch.testing.assert_close(mixing, torch.eye(9, dtype=torch.float64)[kept], atol=1e-6, rtol=0)


def test_the_sign_of_gamma_counts() -> None:
    model = network()
    unit = model.body[0]
    rows, _ = channels(unit.conv.weight, None, unit.bn, "folded")
    with torch.no_grad():
        unit.bn.weight[3] *= -1
    flipped, _ = channels(unit.conv.weight, None, unit.bn, "folded")
    assert torch.equal(flipped[3], -rows[3]) and torch.equal(flipped[:3], rows[:3])


def test_normalised_channels_are_directions_scaled_by_gamma() -> None:
    unit = network().body[0]
    rows, offsets = channels(unit.conv.weight, None, unit.bn, "normalised")
    torch.testing.assert_close(rows.norm(dim=1), unit.bn.weight.detach().abs())
    assert torch.equal(offsets, unit.bn.bias)


# ---- networks


def test_nothing_asked_nothing_done() -> None:
    dense, images = network(), random(2, 1, 9, 9)
    expected = dense(images)
    unchanged = method(ratio=0, bits=32).compress(Given(dense))
    assert (unchanged(images) - expected).abs().max() < 1e-6
    assert not any(isinstance(m, QuantConv2d) for m in unchanged.modules())


def with_a_dependent_filter(factors: dict[int, float]) -> nn.Module:
    """The last filter of the first layer, the smallest one, is in folded form a combination of others."""
    model = network()
    conv, norm = model.body[0].conv, model.body[0].bn
    rows, offsets = channels(conv.weight, None, norm, "folded")
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        conv.weight[9] = sum(f * rows[i] for i, f in factors.items()).reshape(1, 3, 3) / slope[9]  # type: ignore[union-attr]
        conv.weight[:9] += 10 * conv.weight[9].abs().max()  # larger than the dependent one
    rows, offsets = channels(conv.weight, None, norm, "folded")
    with torch.no_grad():
        conv.weight[9] = sum(f * rows[i] for i, f in factors.items()).reshape(1, 3, 3) / slope[9]  # type: ignore[union-attr]
        norm.bias[9] = sum(f * offsets[i] for i, f in factors.items()) + norm.running_mean[9] * slope[9]
    return model


def test_a_combination_of_kept_filters_is_rebuilt_before_the_relu() -> None:
    unit = with_a_dependent_filter({0: 0.01, 4: -0.02, 7: 0.015}).body[0]
    kept = torch.arange(9)
    rows, offsets = channels(unit.conv.weight, None, unit.bn, "folded")
    mixing = closed_form(rows, offsets, kept, rows[kept], ALPHA1, 1e-13)
    images = random(1, 1, 8, 8)
    outputs = unit.bn(unit.conv(images))[0].flatten(1)
    assert (mixing[:, 9] @ outputs[kept] - outputs[9]).abs().max() < 1e-6


def test_a_positive_multiple_of_one_channel_is_rebuilt_after_the_relu() -> None:
    dense, images = with_a_dependent_filter({4: 0.02}), random(2, 1, 8, 8)
    assert dense.body[0].conv.weight.flatten(1).norm(dim=1).argmin() == 9
    expected = dense.body[1].bn(dense.body[1].conv(dense.body[0](images)))
    options = {"ratio": 0.1, "bits": 32, "mean_restoration": False}
    narrow = method(alpha2=1e-13, **options).compress(Given(dense))
    assert narrow.body[0].conv.out_channels == 9 and narrow.body[1].conv.out_channels == 7
    kept = dense.body[1].conv.weight.flatten(1).norm(dim=1).argsort()[1:].sort().values
    found = narrow.body[1].bn(narrow.body[1].conv(narrow.body[0](images)))
    assert (found - expected[:, kept]).abs().max() < 1e-6
    naive = method(compensate="none", **options).compress(Given(with_a_dependent_filter({4: 0.02})))
    damaged = naive.body[1].bn(naive.body[1].conv(naive.body[0](images)))
    assert (damaged - expected[:, kept]).abs().max() > 1e-3


def low_rank_chain(width: int = 12, rank: int = 5, noise: float = 0.05) -> tuple[nn.Module, Tensor]:
    """Three convolutions whose filters are nearly of low rank, statistics from Gaussian images, and other images."""
    model = network(widths=(width,) * 3, in_channels=8)
    with torch.no_grad():
        for i in range(3):
            weight = model.body[i].conv.weight
            flat = random(width, rank, seed=10 + i) @ random(rank, weight[0].numel(), seed=20 + i)
            flat /= flat.std()
            flat += noise * random(*flat.shape, seed=30 + i)
            weight.copy_(flat.reshape(weight.shape) / weight[0].numel() ** 0.5)
            nn.init.constant_(model.body[i].bn.weight, 1)
            nn.init.constant_(model.body[i].bn.bias, 0)
        recompute_statistics(model, [random(64, 8, 10, 10, seed=2)])
    return model, random(32, 8, 10, 10, seed=3)


def chain_error(**options: object) -> float:
    """Of the network's output, relative to its norm."""
    model, images = low_rank_chain()
    with torch.no_grad():
        expected = model(images)
        found = method(**options).compress(Given(model))(images)
    return float((found - expected).norm() / expected.norm())


def test_on_filters_of_low_rank_naive_fails_and_udfc_does_not() -> None:
    """And without the means the combination, which holds before the ReLU only, does more harm than good."""
    naive, full = chain_error(compensate="none", mean_restoration=False), chain_error()
    assert full < naive / 3 and full < chain_error(compensate="none") / 2
    assert chain_error(mean_restoration=False) > naive


def test_pruned_only_leaves_rounding_errors_alone() -> None:
    unit, kept = network().body[0], torch.tensor([0, 2, 3, 5, 6, 8, 9])
    rounded = (unit.conv.weight.detach() * 3).round() / 3
    both, _ = method().mixing(unit.conv, unit.bn, kept, rounded)
    only, _ = method(compensate="pruned_only").mixing(unit.conv, unit.bn, kept, rounded)
    naive, left = method(compensate="none").mixing(unit.conv, unit.bn, kept, rounded)
    pruned = torch.tensor([1, 4, 7])
    assert torch.equal(only[:, kept], torch.eye(7, dtype=torch.float64)) and torch.equal(
        only[:, pruned], both[:, pruned]
    )
    assert torch.equal(naive, torch.eye(10, dtype=torch.float64)[kept]) and left == 1
    assert not torch.equal(both[:, kept], only[:, kept])


def test_a_chain_compensates_with_what_it_has_compensated() -> None:
    """The second pair starts from the remixed weights and the shifted mean of the first one, and from the original scores."""
    dense = network(widths=(8, 8, 8))
    seen = []
    tool = method(ratio=0.25, bits=32)
    original = tool.mixing

    def spy(layer: nn.Conv2d, norm: nn.BatchNorm2d, kept: Tensor, rounded: Tensor):  # type: ignore[no-untyped-def]
        seen.append((layer.weight.clone(), norm.running_mean.clone()))
        return original(layer, norm, kept, rounded)  # type: ignore[arg-type]

    tool.mixing = spy  # type: ignore[method-assign,assignment]
    before, mean = dense.body[1].conv.weight.clone(), dense.body[1].bn.running_mean.clone()
    tool.compress(Given(dense))
    weight, moved = seen[1]
    removed = (weight == 0).flatten(2).all(2).all(0)
    assert int(removed.sum()) == 2 and not torch.equal(weight[:, ~removed], before[:, ~removed])
    assert bool((moved != mean).all())


# ---- as a method


def test_it_reads_no_data_and_ends_in_the_same_bits(data_root: Path, tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        ctx = make_context(data_root, tmp_path)
        ctx.__dict__["data"] = None  # any access to images fails
        results.append(method().compress(ctx))
        assert 0 < ctx.records["error_left"] < 1
    assert same_bits(results[0].state_dict(), results[1].state_dict())


def test_the_stored_network_is_narrow_and_packed(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    dense, model = ctx.dense(), method(ratio=0.3).compress(ctx)
    assert [model.get_submodule(f"stages.{s}.0.conv1").out_channels for s in range(3)] == [
        3,
        6,
        6,
    ]  # round(1.2), round(2.4)
    storage.save_model(model, tmp_path / "stored")
    images = torch.randn(2, *ctx.info.image_shape)
    assert torch.equal(storage.load_model(tmp_path / "stored")(images), model(images))
    counts, before = (accounting.account(m, ctx.info.image_shape) for m in (model, dense))
    assert counts.bit_operations == counts.macs * 6 * 32 and counts.macs < before.macs
    packed = sum(t.numel() for name, t in packed_tensors(model).items() if name.endswith(".packed"))
    others = counts.params - counts.weights
    assert counts.stored_bytes == packed + 4 * others
    assert packed == sum(-(-m.weight.numel() * 6 // 8) for _, m in accounting.weight_layers(model))


def test_real_statistics_are_an_option_that_reads_data(data_root: Path, tmp_path: Path) -> None:
    plain = method().compress(make_context(data_root, tmp_path))
    real = method(recalibration_batches=2).compress(make_context(data_root, tmp_path))
    name = "stages.0.0.bn1.running_mean"
    assert not torch.equal(plain.state_dict()[name], real.state_dict()[name])
    ctx = make_context(data_root, tmp_path)
    ctx.__dict__["data"] = None
    with pytest.raises(AttributeError):
        method(recalibration_batches=2).compress(ctx)


@pytest.mark.parametrize(
    "options", [{"alpha1": -0.1}, {"alpha2": 0}, {"alpha2": -1}, {"ratio": 1.0}, {"compensate": "x"}]
)
def test_wrong_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        UDFC.Config(**options)


def test_every_setting_is_valid_and_labelled() -> None:
    declared = Plan(ROOT, "paper", ["udfc"]).declarations["udfc"]
    for name, own in declared.settings.items():
        config = UDFC.Config(**own.hyperparameters)
        assert (config.recalibration_batches > 0) == name.startswith("data_")
    assert all(declared.label_of(name) != name for name in declared.settings)


# ---- counts

COUNTS = {
    ("ResNet-18", "dense"): (11_689_512, 1_814_073_344, None),
    ("ResNet-18", "p30"): (8_386_728, 1_313_266_688, 7.44),
    ("ResNet-34", "dense"): (21_797_672, 3_663_761_408, None),
    ("ResNet-34", "p10"): (19_682_418, 3_312_316_160, 5.91),
    ("ResNet-34", "p20"): (17_590_210, 2_955_226_112, 6.61),
    ("ResNet-34", "p30"): (15_458_254, 2_609_312_768, 7.52),
    ("ResNet-50", "dense"): (25_557_032, 4_089_184_256, None),
    ("ResNet-50", "p30"): (16_959_305, 2_621_807_716, 8.04),
    ("ResNet-20", "dense"): (269_722, 40_551_040, None),
    ("ResNet-20", "p30"): (189_166, 28_220_032, 7.61),
    ("ResNet-20", "p50"): (135_754, 20_497_024, 10.62),
    ("ResNet-56", "dense"): (853_018, 125_485_696, None),
    ("ResNet-56", "p30"): (597_526, 87_054_976, 7.62),
    ("ResNet-56", "p50"): (428_074, 62_964_352, 10.65),
    ("ResNet-56", "p70"): (258_622, 38_873_728, 17.69),
}


@cache
def counts() -> dict[tuple[str, str, str], float]:
    return {(f.model, f.setting, f.metric): f.value for f in recompute()}


def test_counts_of_the_specification() -> None:
    found = counts()
    for (model, setting), (params, macs, factor) in COUNTS.items():
        assert (found[model, setting, "params"], found[model, setting, "macs"]) == (params, macs), (model, setting)
        if factor is not None:
            assert found[model, setting, "memory_factor"] == pytest.approx(factor, abs=0.005)
    assert found["VGG-16", "dense", "weights"] == 14_710_464 + 267_264
    assert found["VGG-16", "dense", "macs"] == 313_463_808
    cuts = {"p30": (50.8, 10.8), "p50": (74.8, 20.9)}
    for setting, (macs, factor) in cuts.items():
        assert found["VGG-16", setting, "macs_removed"] == pytest.approx(macs, abs=0.05)
        assert found["VGG-16", setting, "memory_factor"] == pytest.approx(factor, abs=0.05)
    assert found["VGG-16", "p50", "memory_factor"] * 6 / 4 == pytest.approx(31.4, abs=0.05)
    assert found["VGG-16", "neuron_merging", "weights_removed"] == pytest.approx(64.0, abs=0.05)
    assert found["VGG-16", "neuron_merging", "macs_removed"] == pytest.approx(34.2, abs=0.05)


def test_published_counts_agree_to_the_last_digit() -> None:
    printed = pd.read_csv(ROOT / "methods/udfc/published.csv", dtype=str).set_index(["model", "setting", "metric"])
    compared = [_compare(printed.value.get(key), value)[1] for key, value in counts().items() if key in printed.index]
    assert len(compared) >= 40 and set(compared) == {"ok"}
    assert {p.name for p in PUBLISHED} <= set(printed.index.get_level_values("model"))


def test_resnet34_at_full_size(tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, "imagenet/resnet34", "udfc", "p30_w6")
    ctx.__dict__["data"] = None
    start = time.process_time()
    model = method().compress(ctx)
    assert time.process_time() - start < 60
    counts = accounting.account(model.to("meta"), (3, 224, 224))
    assert (counts.params, counts.macs) == COUNTS["ResNet-34", "p30"][:2]
    assert counts.bit_operations == counts.macs * 6 * 32
    assert 32 * 21_779_648 / (6 * counts.weights) == pytest.approx(7.52, abs=0.005)
