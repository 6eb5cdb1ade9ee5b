"""ReCU: the clamp and its gradient, the schedule of tau, counts, training and storage."""

import csv
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import Laplace
from torch.nn import functional as F

from compressbench import models, storage
from compressbench.kernels.packed_binary import PackedBinaryConv2d
from compressbench.layers.binary import EPSILON, OneBitConv2d, binarise, binary_layers, triangular_slope, with_slope
from compressbench.quantization.binary_counts import binary_counts
from compressbench.runtimes.native import NativeRuntime
from compressbench.training import State
from methods.recu.layer import RectifiedClampConv2d
from methods.recu.method import ClampSchedule, ReCU, convolutions_and_classifier
from tests.conftest import ROOT
from tests.contexts import full_size_context
from tests.contexts.binary import make_binary_context

FOLDER = ROOT / "methods/recu"


def make_layer(inputs: int = 6, outputs: int = 5, stride: int = 1, tau: float = 0.85) -> RectifiedClampConv2d:
    torch.manual_seed(inputs)
    plain = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False).double()
    layer = RectifiedClampConv2d.rebuild(plain, {})
    layer.alpha.data.uniform_(0.1, 1)
    layer.double().set_tau(tau)
    return layer


def equations(layer: RectifiedClampConv2d, x: Tensor, weight: Tensor) -> Tensor:
    """Section 4.1, for autograd: the forward pass in training mode from its plain definitions."""
    w0 = weight - weight.mean((1, 2, 3), keepdim=True)
    w1 = w0 * 2 * math.sqrt(2) / torch.sqrt(weight.var((1, 2, 3), keepdim=True) + EPSILON)
    q = -w1.abs().mean().detach() * torch.log(2 - 2 * layer.tau)
    w2 = torch.maximum(torch.minimum(w1, q), -q) if q < math.inf else w1
    wb = with_slope(w2, torch.sign(w2), torch.ones_like)
    a0 = x / torch.sqrt(x.var((1, 2, 3), keepdim=True) + EPSILON)
    ab = with_slope(a0, torch.sign(a0), triangular_slope)
    return layer.alpha[:, None, None] * F.conv2d(ab, wb, stride=layer.stride, padding=1)


@pytest.mark.parametrize("tau", [0.85, 0.99, 1.0])
def test_forward_and_backward_are_those_of_the_equations(tau: float) -> None:
    layer = make_layer(tau=tau)
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 5, 5, 7, dtype=torch.float64)
    inputs = (x, layer.weight, layer.alpha)
    y, expected = layer(x), equations(layer, x, layer.weight)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    own, theirs = (torch.autograd.grad(value, inputs, upstream) for value in (y, expected))
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def closed_form(layer: RectifiedClampConv2d, by_signs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Section 4.2: (dL/dW, c, g) from the gradient by the signs."""
    weight = layer.weight.detach()
    n, variance = weight[0].numel(), weight.var((1, 2, 3), keepdim=True)
    w0, c = weight - weight.mean((1, 2, 3), keepdim=True), 2 * math.sqrt(2) / torch.sqrt(variance + EPSILON)
    g = by_signs * ~layer.clamped()
    inner = (g * w0).sum((1, 2, 3), keepdim=True)
    return c * (g - g.mean((1, 2, 3), keepdim=True) - w0 * inner / ((n - 1) * (variance + EPSILON))), c, g


def test_the_weight_gradient_is_orthogonal_to_shifts_and_scales() -> None:
    layer = make_layer(outputs=7)
    by_signs = torch.randn_like(layer.weight)
    (gradient,) = torch.autograd.grad(layer.weight_signs(), layer.weight, by_signs)
    expected, c, g = closed_form(layer, by_signs)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert gradient.sum((1, 2, 3)).abs().max() < 1e-9 * gradient.abs().max()
    weight = layer.weight.detach()
    w0, variance = weight - weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), keepdim=True)
    left = (gradient * w0).sum((1, 2, 3))
    right = (c * (g * w0).sum((1, 2, 3), keepdim=True) * EPSILON / (variance + EPSILON)).flatten()
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9)


def test_the_clamp_acts_through_the_gradient_alone() -> None:
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    outputs, gradients = [], []
    for tau in (0.6, 0.85, 1.0):
        layer = make_layer(tau=tau)
        y = layer(x)
        outputs.append(y)
        gradients.append(torch.autograd.grad(y.square().sum(), layer.weight)[0])
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[1], outputs[2])
    assert not torch.allclose(gradients[1], gradients[2])


def test_the_direct_gradient_is_cut_beyond_q_and_on_laplace_weights_of_30_percent() -> None:
    layer = make_layer(64, 200)
    torch.manual_seed(0)
    layer.weight.data.copy_(Laplace(0.0, 0.05).sample(layer.weight.shape))
    w1 = layer.standardised().detach().requires_grad_()
    q = -w1.abs().mean().detach() * math.log(0.3)
    assert torch.equal(layer.clamped(), w1.abs() > q)
    assert layer.clamped().double().mean().item() == pytest.approx(0.30, abs=0.01)


def test_a_fresh_layer_clamps_nothing() -> None:
    layer = RectifiedClampConv2d.rebuild(nn.Conv2d(4, 4, 3), {})
    assert layer.tau == 1 and not layer.clamped().any()


@pytest.mark.parametrize("tau", [0.5, 0.2, 1.01])
def test_impossible_quantiles_are_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=r"tau must be in \(0\.5, 1\]"):
        make_layer(tau=tau)
    with pytest.raises(ValidationError):
        ReCU.Config(tau_min=tau)


def test_a_falling_quantile_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not exceed"):
        ReCU.Config(tau_min=0.99, tau_max=0.9)


@pytest.mark.parametrize(
    ("epochs", "values"),
    [
        (600, {0: 0.85, 150: 0.8731415, 300: 0.9028557, 450: 0.9410095, 599: 0.9896312}),
        (20, {1: 0.8541774, 10: 0.9028557, 19: 0.9791985}),
    ],
)
def test_tau_grows_exponentially(epochs: int, values: dict[int, float]) -> None:
    schedule = ClampSchedule(0.85, 0.99)
    for epoch, value in values.items():
        assert schedule.tau(epoch, epochs) == pytest.approx(value, abs=1e-7 if epoch else 1e-15)
    every = [schedule.tau(e, epochs) for e in range(epochs)]
    assert every == sorted(set(every))


def test_the_schedule_sets_every_layer() -> None:
    model = nn.Sequential(make_layer(), make_layer(4))
    state = State(model, [], epochs=20, steps_per_epoch=1, epoch=10)
    ClampSchedule(0.85, 0.99).on_epoch_start(state)
    assert [layer.tau.item() for layer in model] == pytest.approx([0.9028557] * 2, abs=1e-7)
    assert 0 < state.metrics["clamped"] < 30 and state.metrics["bit_entropy"] > 0.98


@pytest.mark.parametrize("stride", [1, 2])
def test_training_and_evaluation_compute_the_same(stride: int) -> None:
    layer = make_layer(stride=stride)
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_scaled_and_shifted_filters_compute_the_same() -> None:
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    layer, other = make_layer(), make_layer()
    for own in (layer, other):
        own.weight.data.mul_(100)  # variance far above epsilon
    other.weight.data.mul_(3).add_(0.7)
    outputs = [own(x) for own in (layer, other)]
    assert torch.equal(*outputs)
    a, b = (
        torch.autograd.grad(y.square().sum(), own.weight)[0] for y, own in zip(outputs, (layer, other), strict=True)
    )
    torch.testing.assert_close(b, a / 3, rtol=1e-6, atol=1e-6 * float(a.abs().max()))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_packed_kernel_computes_the_same_integers(stride: int) -> None:
    layer = make_layer(70, 9, stride).float().eval()
    layer.alpha.data.fill_(1.0)
    x = torch.randn(1, 70, 9, 9)
    form = layer.binary_form()
    packed = PackedBinaryConv2d(form.bits, None, None, (9, 9), stride=stride, padding=1)
    assert torch.equal(packed(x), layer(x))


def resnet8() -> nn.Module:
    """One block per stage, 28x28, stem stride 1."""
    with torch.device("meta"):
        model = models.build("binary_resnet_cifar", blocks=[1, 1, 1], in_channels=1, form="recu")
    return binarise(model, lambda layer: RectifiedClampConv2d.rebuild(layer, {}))


def test_counts_of_the_small_network() -> None:
    counts = binary_counts(resnet8(), (1, 28, 28))
    expected = {
        "binary_convolutions": 6, "binary_weights": 73_728, "scales": 224, "params": 75_354,
        "binary_macs": 9_031_680, "float_macs": 113_536, "ops": 254_656,
    }  # fmt: skip
    assert {name: counts[name] for name in expected} == expected
    assert counts["macs_per_op"] == pytest.approx(35.91, abs=0.005)


def test_facts_equal_the_published_counts_to_the_last_digit() -> None:
    with (FOLDER / "published.csv").open(encoding="utf-8") as file:
        printed = {(r["model"], r["setting"], r["metric"]): r["value"] for r in csv.DictReader(file)}
    recomputed = ReCU.published_counts()
    assert len(recomputed) == 5 * 10
    for count in recomputed:
        value = printed[count.model, count.setting, count.metric]
        digits = len(value.partition(".")[2])
        assert count.value == pytest.approx(float(value), abs=0.5 * 10**-digits), count


def test_everything_is_trained_and_tau_is_a_buffer(data_root: Path, tmp_path: Path) -> None:
    model = ReCU(ReCU.Config()).network(make_binary_context(data_root, tmp_path))
    parameters = dict(model.named_parameters())
    for name in binary_layers(model):
        assert f"{name}.weight" in parameters and f"{name}.alpha" in parameters
        assert f"{name}.tau" not in parameters and f"{name}.tau" in model.state_dict()
        alpha = parameters[f"{name}.alpha"]
        assert (alpha >= 0).all() and (alpha < 1).all() and alpha.std() > 0
    groups = convolutions_and_classifier(model)
    together = [id(p) for group in groups for p in group["params"]]
    assert sorted(together) == sorted(map(id, parameters.values()))


def test_on_imagenet_norms_and_real_shortcuts_do_not_decay() -> None:
    with torch.device("meta"):
        model = models.build("binary_resnet18", form="recu")
    binarise(model, lambda layer: RectifiedClampConv2d.rebuild(layer, {}))
    decayed, rest = (sum(p.numel() for p in group["params"]) for group in convolutions_and_classifier(model))
    stem, linear, shortcuts = 3 * 64 * 49, 513 * 1000, 64 * 128 + 128 * 256 + 256 * 512
    assert decayed == 10_985_472 + 3840 + stem + linear
    norms = 2 * (64 + 3840 + 512 + 128 + 256 + 512)
    assert rest == shortcuts + norms and decayed + rest == 11_694_376


def test_it_trains_and_stores_one_bit_a_weight(data_root: Path, tmp_path: Path) -> None:
    ctx = make_binary_context(data_root, tmp_path, epochs=2)
    model = ReCU(ReCU.Config(rate="recipe")).compress(ctx)
    layers = binary_layers(model)
    assert len(layers) == 4 and all(type(layer) is OneBitConv2d for layer in layers.values())
    assert all((layer.weight.abs() == 1).all() for layer in layers.values())
    assert "ties" in ctx.records
    latent = load_file(tmp_path / "compress" / "latent.safetensors")
    assert (
        latent["counts_before"].sum() == latent["counts_after"].sum() == sum(m.weight.numel() for m in layers.values())
    )
    storage.save_model(model, tmp_path / "stored")
    x = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(storage.load_model(tmp_path / "stored")(x), model(x))  # one is in channels_last


def test_the_deployed_network_runs_on_the_packed_kernel(data_root: Path, tmp_path: Path) -> None:
    ctx = make_binary_context(data_root, tmp_path)
    model = ReCU(ReCU.Config(rate="recipe")).compress(ctx)
    x, runtime = ctx.data.test.images[:1], NativeRuntime()
    with torch.no_grad():
        expected, call = model(x), runtime.prepare(model, x)
        torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
    assert runtime.forms["binary"] == 4


@pytest.mark.parametrize(
    ("pair", "setting", "convolutions"),
    [
        ("cifar10/binary_resnet20", "w1a1", 18),
        ("cifar10/binary_resnet18_cifar", "w1a1", 16),
        ("cifar10/binary_vgg_small", "w1a1", 5),
        ("imagenet/binary_resnet18", "w1a1_imagenet", 16),
        ("imagenet/binary_resnet34", "w1a1_imagenet", 32),
    ],
)
def test_one_iteration_at_full_size(pair: str, setting: str, convolutions: int, tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, pair, "recu", setting)
    decay = "convolutions_and_classifier" if setting == "w1a1_imagenet" else "all"
    model = ReCU(ReCU.Config(decay=decay)).compress(ctx)
    assert len(binary_layers(model)) == convolutions
