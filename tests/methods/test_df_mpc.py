"""DF-MPC: the acceptance checks of its specification, and the memory of the networks of its kind."""

import time
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressbench import accounting, models, storage
from compressbench.data_free.closed_forms import Signal, input_signals, relu_moments
from compressbench.errors import UserError
from compressbench.layers.packing import pack_weight, packed_tensors
from compressbench.layers.quantized import QuantConv2d
from compressbench.plan import Plan
from compressbench.reporting.published import _compare
from compressbench.runtimes.integer import integer_network
from compressbench.training.batchnorm_statistics import recompute_statistics
from compressbench.training.checkpoint import same_bits
from methods.df_mpc.compensation import Outputs, change, coefficients, loss, ternary
from methods.df_mpc.counts import recompute
from methods.df_mpc.layout import mean_bits, mixed_pairs
from methods.df_mpc.method import DFMPC
from tests.conftest import ROOT
from tests.contexts import full_size_context, make_context
from tests.empty_ranges import TENSORS

from .data_free import Given, plain, random

DIRECT = {"reestimate": False, "compensate": False, "restore_next": False}


def method(**options: object) -> DFMPC:
    return DFMPC(DFMPC.Config(**options))


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- ternary weights


def test_ternary_example() -> None:
    weight = torch.tensor([1, -1, 0.1, -0.1]).reshape(1, 4, 1, 1)
    assert 0.7 * weight.abs().mean().item() == pytest.approx(0.385)
    rounded, step, bits = ternary(weight)
    assert rounded.flatten().tolist() == [1, -1, 0, 0] and (step.item(), bits) == (1, 2)


@pytest.mark.parametrize("per_filter", [False, True])
def test_three_values_and_scale_equivariance(per_filter: bool) -> None:
    weight = random(6, 5, 3, 3)
    rounded, step, _ = ternary(weight, per_filter)
    for row, alpha in zip(rounded if per_filter else [rounded], step.reshape(-1), strict=True):
        assert set(row.unique().tolist()) == {-alpha.item(), 0, alpha.item()}
    torch.testing.assert_close(ternary(3 * weight, per_filter).weight, 3 * rounded)
    kept = weight[rounded != 0].abs()
    assert kept.min() > weight[rounded == 0].abs().max() or per_filter
    if not per_filter:
        assert step.item() == pytest.approx(kept.mean().item())


def test_a_zero_weight_stays_zero_on_a_usable_grid() -> None:
    for per_filter in (False, True):
        rounded, step, _ = ternary(torch.zeros(2, 3, 3, 3), per_filter)
        assert not rounded.any() and bool((step == 1).all())


@pytest.mark.parametrize("values", TENSORS)
def test_what_has_no_range_keeps_its_value(values: str) -> None:
    x = TENSORS[values]
    for per_filter in (False, True):
        rounded = ternary(x, per_filter)
        assert rounded.weight.isfinite().all() and (rounded.step > 0).all()
        if values != "99 % zero":
            torch.testing.assert_close(rounded.weight, x)


def test_ternary_gaussian_weights() -> None:
    weight = random(64, 64, 3, 3)
    rounded = ternary(weight).weight
    assert (rounded != 0).double().mean().item() == pytest.approx(0.576, abs=0.005)
    assert torch.cosine_similarity(weight.flatten(), rounded.flatten(), dim=0).item() == pytest.approx(0.90, abs=0.005)
    assert set(ternary(weight, scaled=False).weight.unique().tolist()) == {-1, 0, 1}


# ---- statistics


def signal(inputs: int = 5) -> Signal:
    mean, variance = relu_moments(random(inputs, seed=1), random(inputs, seed=2).abs())
    return Signal(mean, variance, mean)


def test_change_against_samples_of_uncorrelated_inputs() -> None:
    weight, about = random(6, 5, 3, 3), signal()
    quantized = ternary(weight).weight
    noise = random(200_000, 45, seed=3).reshape(-1, 5, 9)
    patches = (about.mean[:, None] + about.variance.sqrt()[:, None] * noise).flatten(1)
    before, after = (patches @ w.flatten(1).T for w in (weight, quantized))
    found = change(weight, quantized, about)
    torch.testing.assert_close(found.shift, (after - before).mean(0), atol=0.02, rtol=0.02)
    torch.testing.assert_close(found.ratio, after.std(0) / before.std(0), atol=0.01, rtol=0.01)
    correlation = torch.stack([torch.corrcoef(torch.stack([before[:, j], after[:, j]]))[0, 1] for j in range(6)])
    torch.testing.assert_close(found.correlation, correlation, atol=0.01, rtol=0.01)


def test_no_change_and_a_vanished_filter() -> None:
    weight = random(3, 5, 3, 3)
    same = change(weight, weight, signal())
    assert [x.tolist() for x in same] == [[0] * 3, pytest.approx([1] * 3), pytest.approx([1] * 3)]
    gone = change(weight, 0 * weight, signal())
    assert gone.ratio.tolist() == [0] * 3 and gone.correlation.tolist() == [0] * 3


# ---- closed form


def test_worked_examples() -> None:
    rho, unit = tensor(0.85), Outputs(tensor(0), tensor(1))
    assert coefficients(rho, unit, unit, 1, 0).item() == pytest.approx(0.85)
    one = Outputs(tensor(1), tensor(1))
    assert coefficients(rho, one, one, 1, 0).item() == pytest.approx(0.925)
    assert coefficients(rho, one, one, 1, 1).item() == pytest.approx(0.616667, abs=1e-6)


channel = st.floats(-3, 3)
positive = st.floats(0.01, 3)


@given(st.floats(-1, 1), channel, positive, channel, positive, st.floats(0, 2), st.floats(0, 2))
@settings(max_examples=200, deadline=None)
def test_c_is_the_minimiser(
    rho: float, beta: float, gamma: float, mean: float, std: float, lambda1: float, lambda2: float
) -> None:
    before, after = Outputs(tensor(beta), tensor(gamma)), Outputs(tensor(mean), tensor(std))

    def at(c: Tensor) -> Tensor:
        return loss(c, tensor(rho), before, after, lambda1, lambda2)

    c = coefficients(tensor(rho), before, after, lambda1, lambda2).requires_grad_()
    (slope,) = torch.autograd.grad(at(c).sum(), c)
    assert c.item() >= 0 and at(c).item() <= at(tensor(1)).item() + 1e-12
    assert abs(slope.item()) < 1e-10 * max(1, std**2 + mean**2) or (c.item() == 0 and slope.item() >= 0)
    top = max(2.0, 1.5 * c.item())
    grid = torch.linspace(0, top, 2001, dtype=torch.float64)
    assert at(c).item() <= at(grid).min().item() + 1e-12
    assert abs(grid[at(grid).argmin()].item() - c.item()) <= top / 2000


def test_the_objective_is_the_mean_squared_difference_of_the_pre_activations() -> None:
    before, after, rho = Outputs(tensor(0.4), tensor(1.3)), Outputs(tensor(-0.2), tensor(0.8)), 0.7
    noise = random(400_000, 2)
    y = 0.4 + 1.3 * noise[:, 0]
    other = -0.2 + 0.8 * (rho * noise[:, 0] + (1 - rho**2) ** 0.5 * noise[:, 1])
    measured = (1.4 * other - y).square().mean().item()
    assert loss(tensor(1.4), tensor(rho), before, after, 1, 0).item() == pytest.approx(measured, rel=0.01)


@given(st.floats(0, 1), channel, positive, st.floats(0, 5))
@settings(max_examples=100, deadline=None)
def test_with_restored_statistics_c_lies_between_the_correlation_and_one(
    rho: float, beta: float, gamma: float, lambda1: float
) -> None:
    outputs = Outputs(tensor(beta), tensor(gamma))
    c = coefficients(tensor(rho), outputs, outputs, lambda1, 0).item()
    assert rho - 1e-12 <= c <= 1 + 1e-12
    expected = (rho * gamma**2 + lambda1 * beta**2) / (gamma**2 + lambda1 * beta**2)
    assert c == pytest.approx(expected)


def test_the_weight_space_form_is_the_same_without_means() -> None:
    """Kept batch norm, inputs of mean 0 and variance 1, lambda1 = 0: c = <a, â> / <â, â> of the folded filters."""
    model = plain(6, 5, in_channels=4)
    conv, norm = model.body[0].conv, model.body[0].bn
    white = Signal(torch.zeros(4).double(), torch.ones(4).double(), torch.ones(4).double())
    quantized = ternary(conv.weight.detach()).weight
    found = change(conv.weight.detach(), quantized, white)
    # the batch norm must remember what such inputs give
    norm.running_var.copy_(conv.weight.detach().square().flatten(1).sum(1) - norm.eps)
    before = Outputs(norm.bias.detach(), norm.weight.detach().abs())
    c = coefficients(found.correlation, before, Outputs(before.mean, before.std * found.ratio), 0, 0)
    slope = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None]
    a, near = slope * conv.weight.flatten(1), slope * quantized.flatten(1)
    torch.testing.assert_close(c, ((a * near).sum(1) / near.square().sum(1)).detach(), rtol=1e-12, atol=1e-14)


def test_a_channel_that_is_always_zero_keeps_its_weight() -> None:
    nothing = Outputs(tensor(0), tensor(0))
    assert coefficients(tensor(0), nothing, nothing, 1, 0).item() == 1


# ---- pairs


def compress(model: nn.Module, **options: object) -> tuple[nn.Module, dict[str, float]]:
    ctx = Given(model)
    return method(**options).compress(ctx), ctx.records  # type: ignore[arg-type]


def test_32_bits_change_nothing() -> None:
    dense, images = plain(6, 5, 4), random(2, 1, 8, 8)
    expected, state = dense(images), {k: v.clone() for k, v in dense.state_dict().items()}
    config = DFMPC.Config().model_copy(update={"low_bits": 32, "high_bits": 32})
    ctx = Given(dense)
    same = DFMPC(config).compress(ctx)  # type: ignore[arg-type]
    assert (same(images) - expected).abs().max() < 1e-6
    assert ctx.records["coefficient"] == pytest.approx(1) and ctx.records["correlation"] == pytest.approx(1)
    for name, value in same.state_dict().items():
        assert (value - state[name]).abs().max() < 1e-6, name


def test_the_sign_of_gamma_does_not_matter_for_c() -> None:
    models_ = [plain(6, 5, 4) for _ in range(2)]
    with torch.no_grad():
        for m in models_[1].modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.abs_()
        assert bool((models_[0].body[1].bn.weight < 0).any())
    values = [compress(m)[1]["coefficient"] for m in models_]
    assert values[0] == values[1]


def test_scaling_a_channel_is_scaling_its_batch_norm() -> None:
    one, two = plain(6, 5, 4), plain(6, 5, 4)
    c, images = torch.rand(5, dtype=torch.float64) * 2, random(3, 1, 8, 8)
    with torch.no_grad():
        one.body[2].conv.weight *= c[:, None, None]
        two.body[1].bn.weight *= c
        two.body[1].bn.bias *= c
    assert (one(images) - two(images)).abs().max() < 1e-6


def test_the_steps_leave_their_traces_where_they_should() -> None:
    """Layers 1 and 2 are a pair: c goes to the input channels of layer 2 before it is rounded."""
    dense = plain(6, 5, 4)
    state = {name: value.clone() for name, value in dense.state_dict().items()}
    signals = input_signals(dense)["body.1.conv"]
    assert signals is not None
    model, _ = compress(dense, high_bits=32)
    low, high = model.get_submodule("body.1.conv"), model.get_submodule("body.2.conv")
    assert (low.weight_bits, type(high)) == (2, nn.Conv2d)
    found = change(state["body.1.conv.weight"], low.weight, signals)
    beta, gamma = state["body.1.bn.bias"], state["body.1.bn.weight"].abs()
    expected = (found.correlation * gamma**2 + beta**2) / (gamma**2 + beta**2)
    torch.testing.assert_close(high.weight, state["body.2.conv.weight"] * expected[:, None, None])
    torch.testing.assert_close(
        model.state_dict()["body.1.bn.running_mean"], state["body.1.bn.running_mean"] + found.shift
    )
    untouched, _ = compress(plain(6, 5, 4), high_bits=32, **DIRECT)
    for name, value in untouched.state_dict().items():
        if "scale" not in name and "zero_point" not in name and name != "body.1.conv.weight":
            assert torch.equal(value, state[name]), name


def test_the_compensated_weight_lies_on_the_high_grid() -> None:
    model, _ = compress(plain(6, 5, 4))
    layer = model.get_submodule("body.2.conv")
    steps = layer.weight / layer.weight_scale
    assert (steps - steps.round()).abs().max() < 1e-9 and int(steps.abs().max().round()) == 31


def test_reestimation_changes_c() -> None:
    kept, moved = (compress(plain(6, 5, 4), reestimate=on)[1]["coefficient"] for on in (False, True))
    assert kept != pytest.approx(moved, abs=1e-4)


def gaussian_network(noise: float = 0.1) -> tuple[nn.Module, Tensor]:
    """12 filters of rank 8 and noise on white images, 9 filters behind them, statistics of such images."""
    model = plain(12, 9, in_channels=8)
    with torch.no_grad():
        weight = model.body[0].conv.weight
        flat = random(12, 8, seed=1) @ random(8, 72, seed=2)
        flat = flat / flat.std() + noise * random(12, 72, seed=3)
        weight.copy_(flat.reshape(weight.shape) / 72**0.5)
        recompute_statistics(model, [random(128, 8, 12, 12, seed=4)])
    return model, random(64, 8, 12, 12, seed=5)


FIRST = {"low_layers": ("body.0.conv",)}


def test_reestimated_batch_norms_normalise_ternary_outputs() -> None:
    model, images = gaussian_network()
    dense_norm = model.body[0].bn
    beta, gamma = dense_norm.bias.detach().clone(), dense_norm.weight.detach().abs().clone()
    compressed, _ = compress(model, **FIRST)
    with torch.no_grad():
        outputs = compressed.body[0].bn(compressed.body[0].conv(images)).transpose(0, 1).flatten(1)
    assert bool(((outputs.std(1) / gamma - 1).abs() < 0.05).all())
    assert bool(((outputs.mean(1) - beta).abs() < 0.05 * gamma.clamp(min=1)).all())


def chain_error(**options: object) -> float:
    """Squared, after the second batch norm, relative to the variance of the original."""
    model, images = gaussian_network()
    with torch.no_grad():
        expected = model.body[1].bn(model.body[1].conv(model.body[0](images)))
        compressed, _ = compress(model, **FIRST, **options)
        found = compressed.body[1].bn(compressed.body[1].conv(compressed.body[0](images)))
    spread = expected - expected.mean((0, 2, 3), keepdim=True)
    return float((found - expected).square().sum() / spread.square().sum())


def test_compensation_lowers_the_error_of_the_next_feature_map() -> None:
    direct, full = chain_error(**DIRECT), chain_error()
    assert full < direct < chain_error(**DIRECT, ternary_scale=False) / 5
    assert full < 0.5


# ---- layout


def test_pairs_by_rule() -> None:
    def pairs(architecture: str, **arguments: object) -> list[tuple[str, str]]:
        with torch.device("meta"):
            return [(p.layer, p.reader) for p in mixed_pairs(models.build(architecture, **arguments))]

    assert pairs("resnet_cifar", blocks=(1,) * 3) == [(f"stages.{s}.0.conv1", f"stages.{s}.0.conv2") for s in range(3)]
    assert {(a[-5:], b[-5:]) for a, b in pairs("resnet50")} == {("conv2", "conv3")} and len(pairs("resnet50")) == 16
    vgg = pairs("vgg", depth=16)
    assert [(a[5:8], b[5:8]) for a, b in vgg] == [
        ("0.1", "1.0"), ("1.1", "2.0"), ("2.1", "2.2"), ("3.0", "3.1"), ("3.2", "4.0"), ("4.1", "4.2")
    ]  # fmt: skip
    assert pairs("plain", widths=(4, 4), strides=(1, 1)) == [("body.1.conv", "classifier")], "a classifier may make up"


def test_a_classifier_gets_its_mean_back() -> None:
    dense = plain(6, 5)
    weight, bias = dense.classifier.weight.detach().clone(), dense.classifier.bias.detach().clone()
    norm = dense.body[1].bn
    mean, _ = relu_moments(norm.bias.detach(), norm.weight.detach().abs())
    model, _ = compress(dense, high_bits=32)
    assert not torch.equal(model.classifier.weight, weight)
    torch.testing.assert_close(model.classifier.weight @ mean + model.classifier.bias, weight @ mean + bias)


def test_wrong_layouts_are_one_sentence() -> None:
    model = plain(6, 5, 4)
    with pytest.raises(UserError, match=r"body\.1\.conv would be low and make up for another"):
        mixed_pairs(model, ("body.*",))
    with pytest.raises(UserError, match="names no layer that feeds one other"):
        mixed_pairs(model, ("stem*",))
    with pytest.raises(UserError, match="no low layer by the rule"):
        mixed_pairs(models.build("mobilenet_mini"))
    bare = plain(6, 5, 4)
    bare.set_submodule("body.1.bn", nn.Identity())
    with pytest.raises(UserError, match="has no batch norm"):
        compress(bare)


@pytest.mark.parametrize(
    "options",
    [{"low_bits": 6}, {"low_bits": 8}, {"low_bits": 1}, {"lambda1": -1}, {"lambda2": -0.1}, {"low_layers": ()}],
)
def test_wrong_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        DFMPC.Config(**options)


# ---- as a method


def test_it_reads_no_data_and_ends_in_the_same_bits(data_root: Path, tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        ctx = make_context(data_root, tmp_path)
        ctx.__dict__["data"] = None  # any access to images fails
        results.append(method().compress(ctx))
        assert 0 < ctx.records["coefficient"] <= 1 and ctx.records["error_left"] < 1
    assert same_bits(results[0].state_dict(), results[1].state_dict())
    ctx = make_context(data_root, tmp_path)
    real = method(recalibration_batches=1).compress(ctx)
    assert not same_bits(results[0].state_dict(), real.state_dict())


@pytest.mark.parametrize("options", [{}, {"ternary": "filter"}, {"low_bits": 3}, {"low_bits": None}, {"high_bits": 32}])
def test_stored_bits_and_bit_operations(data_root: Path, tmp_path: Path, options: dict) -> None:
    ctx = make_context(data_root, tmp_path)
    model = method(**options).compress(ctx)
    config = DFMPC.Config(**options)
    low = {p.layer for p in mixed_pairs(ctx.dense())} if config.low_bits else set()
    bits = {n: config.low_bits if n in low else config.high_bits for n, _ in accounting.weight_layers(model)}
    rows = [r for r in accounting.layer_table(model, ctx.info.image_shape) if r.kind in ("conv", "linear")]
    assert {r.name: r.weight_bits for r in rows} == bits
    counts = accounting.account(model, ctx.info.image_shape)
    assert counts.bit_operations == sum(r.macs * bits[r.name] * 32 for r in rows)  # type: ignore[operator]
    sizes = {name: layer.weight.numel() for name, layer in accounting.weight_layers(model)}
    assert counts.stored_bytes == sum(-(-n * bits[k] // 8) for k, n in sizes.items()) + 4 * (  # type: ignore[operator]
        counts.params - counts.weights
    )
    mean = sum(sizes[k] * bits[k] for k in sizes) / sum(sizes.values())  # type: ignore[operator]
    assert mean_bits(model) == ctx.records["mean_bits"] == pytest.approx(mean)
    packed = packed_tensors(model)
    for name, layer in model.named_modules():
        if isinstance(layer, QuantConv2d):
            assert torch.equal(layer.effective_weight(), layer.weight)
            torch.testing.assert_close(pack_weight(layer).weight(), layer.weight)
            assert packed[f"{name}.packed"].numel() == -(-sizes[name] * layer.weight_bits // 8)
    storage.save_model(model, tmp_path / "stored")
    images = torch.randn(2, *ctx.info.image_shape)
    assert torch.equal(storage.load_model(tmp_path / "stored")(images), model(images))
    torch.testing.assert_close(integer_network(model)(images), model(images), rtol=1e-4, atol=1e-4)


def test_settings() -> None:
    declared = Plan(ROOT, "paper", ["df_mpc"]).declarations["df_mpc"]
    configs = {name: DFMPC.Config(**own.hyperparameters) for name, own in declared.settings.items()}
    assert all(declared.label_of(name) != name for name in configs)
    assert all((config.recalibration_batches > 0) == name.startswith("data_") for name, config in configs.items())
    steps = {name: (c.reestimate, c.compensate, c.restore_next) for name, c in configs.items()}
    assert steps["w2_6"] == (True, True, True) and steps["direct_w2_6"] == (False, False, False)
    assert steps["c_w2_6"] == (False, True, False) and steps["norm_w2_6"] == (True, False, False)
    assert steps["norm_c_w2_6"] == (True, True, False) and steps["norms_w2_6"] == (True, False, True)


# ---- counts

COUNTS = {
    "ResNet-18": (11_678_912, 1_814_073_344, 40.4, 44.55, (4.384, 4.788), (6.10, 6.67)),
    "ResNet-34": (21_779_648, 3_663_761_408, 44.85, 83.08, (4.206, 4.654), (10.92, 12.08)),
    "ResNet-50": (25_502_912, 4_089_184_256, 44.38, 97.29, (4.225, 4.669), (12.84, 14.19)),
    "ResNet-20": (268_336, 40_551_040, 45.5, 1.024, (4.180, 4.635), (0.1337, 0.1482)),
    "ResNet-56": (848_944, 125_485_696, 48.6, 3.239, (4.057, 4.543), (0.4106, 0.4597)),
}


@cache
def counts() -> dict[tuple[str, str, str], float]:
    return {(f.model, f.setting, f.metric): f.value for f in recompute()}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_specification(name: str) -> None:
    weights, macs, share, megabytes, bits, memory = COUNTS[name]
    found = {(setting, metric): value for (model, setting, metric), value in counts().items() if model == name}
    assert (found["dense", "weights"], found["dense", "macs"]) == (weights, macs)
    assert found["dense", "low_share"] == pytest.approx(share, abs=0.05)
    assert found["dense", "weight_mb"] == pytest.approx(megabytes, abs=0.005)
    for i, setting in enumerate(("w2_6", "w3_6")):
        assert found[setting, "mean_bits"] == pytest.approx(bits[i], abs=0.0005)
        assert found[setting, "weight_mb"] == pytest.approx(memory[i], abs=0.0051)


def test_published_counts_agree_to_the_last_digit() -> None:
    printed = pd.read_csv(ROOT / "methods/df_mpc/published.csv", dtype=str).set_index(["model", "setting", "metric"])
    compared = [_compare(printed.value[key], value)[1] for key, value in counts().items() if key in printed.index]
    assert len(compared) == 5 * 8 and set(compared) == {"ok"}
    unknown = printed[printed.value == "not available"]
    assert {metric for _, _, metric in unknown.index} == {"top1"} and len(unknown) == 10


def test_resnet18_at_full_size(tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, "imagenet/resnet18", "df_mpc", "w2_6")
    ctx.__dict__["data"] = None
    start = time.process_time()
    model = method().compress(ctx)
    assert time.process_time() - start < 30
    assert mean_bits(model) == pytest.approx(4.384, abs=0.0005)
    counts = accounting.account(model.to("meta"), (3, 224, 224))
    assert counts.macs == 1_814_073_344
    assert (counts.stored_bytes - 4 * (counts.params - counts.weights)) / 2**20 == pytest.approx(6.10, abs=0.005)
