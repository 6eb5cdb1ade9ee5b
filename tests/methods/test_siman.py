"""SiMaN: magnitude bits, their gradient, the projection, both encodings, weight decay, counts."""

import csv
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import models
from compressbench.kernels.packed_binary import PackedBinaryConv2d
from compressbench.layers.binary import (
    EPSILON,
    binarise,
    binary_layers,
    one_bit,
    standardise,
    triangular_slope,
    with_slope,
)
from compressbench.quantization.binary_counts import binary_counts
from compressbench.quantization.latent_weights import bit_entropy
from compressbench.runtimes.native import NativeRuntime
from compressbench.training import State
from methods.siman.layer import MagnitudeConv2d, median_bits, percentile, project
from methods.siman.method import ClippingSchedule, SiMaN, magnitude_layers, parameter_groups
from tests.conftest import ROOT
from tests.contexts import full_size_context
from tests.contexts.binary import make_binary_context

FOLDER = ROOT / "methods/siman"


def make_layer(inputs: int = 6, outputs: int = 5, stride: int = 1, p: float = 15.0) -> MagnitudeConv2d:
    torch.manual_seed(inputs)
    layer = MagnitudeConv2d.rebuild(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False).double(), {})
    layer.set_p(p)
    return layer


def equations(layer: MagnitudeConv2d, x: Tensor, weight: Tensor) -> Tensor:
    """Section 4.1 after the projection, for autograd."""
    w0 = weight - weight.mean((1, 2, 3), keepdim=True)
    magnitudes = (w0 / torch.sqrt(weight.var((1, 2, 3), keepdim=True) + EPSILON)).abs()
    ranks = magnitudes.detach().flatten(1).argsort(1).argsort(1)
    ones = (ranks >= ranks.shape[1] - ranks.shape[1] // 2).reshape(weight.shape)
    wb = with_slope(magnitudes, 2 * ones.double() - 1, torch.ones_like)
    mean = x.mean((1, 2, 3), keepdim=True)
    a1 = (x - mean) / torch.sqrt(x.var((1, 2, 3), keepdim=True) + EPSILON)
    ab = with_slope(a1, torch.sign(a1), triangular_slope)
    return layer.alpha[:, None, None] * F.conv2d(ab, wb, stride=layer.stride, padding=1)


def test_forward_and_backward_are_those_of_the_equations() -> None:
    layer = make_layer(p=0.0)
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 5, 5, 7, dtype=torch.float64)
    y = layer(x)
    expected = equations(layer, x, layer.weight)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    inputs = (x, layer.weight, layer.alpha)
    own, theirs = (torch.autograd.grad(value, inputs, upstream) for value in (y, expected))
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_weight_gradient_in_closed_form() -> None:
    layer = make_layer(outputs=7)
    weight, by_signs = layer.weight, torch.randn_like(layer.weight)
    (gradient,) = torch.autograd.grad(layer.weight_signs(), weight, by_signs)
    n, variance = weight[0].numel(), weight.detach().var((1, 2, 3), keepdim=True)
    w0 = weight.detach() - weight.detach().mean((1, 2, 3), keepdim=True)
    g = by_signs * w0.sign()
    inner = (g * w0).sum((1, 2, 3), keepdim=True)
    bracket = g - g.mean((1, 2, 3), keepdim=True) - w0 * inner / ((n - 1) * (variance + EPSILON))
    torch.testing.assert_close(gradient, bracket / torch.sqrt(variance + EPSILON), rtol=1e-9, atol=1e-9)
    assert gradient.sum((1, 2, 3)).abs().max() < 1e-9 * gradient.abs().max()


def test_with_standardisation_frozen_the_gradient_is_the_sign() -> None:
    values = torch.randn(3, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    magnitudes = values.abs()
    with_slope(magnitudes, 2 * median_bits(magnitudes.detach()) - 1.0, torch.ones_like).sum().backward()
    assert values.grad is not None and torch.equal(values.grad, values.detach().sign())


@pytest.mark.parametrize("inputs", [4, 5])
def test_half_of_every_filter_is_one(inputs: int) -> None:
    layer = make_layer(inputs, 40, p=0.0)  # without ties from clipping
    layer(torch.randn(2, inputs, 6, 6, dtype=torch.float64))
    n = inputs * 9
    assert (layer.magnitude_bits.flatten(1).sum(1) == n // 2).all()
    if n % 2 == 0:
        assert bit_entropy(layer.magnitude_bits) == 1
    assert set(layer.weight_signs().unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("n", [144, 145])
def test_the_median_marks_what_sorting_marks(n: int) -> None:
    torch.manual_seed(0)
    magnitudes = torch.rand(1000, n)
    largest = magnitudes.topk(n // 2, dim=1).indices
    assert torch.equal(median_bits(magnitudes), torch.zeros(1000, n).scatter_(1, largest, 1).bool())


def test_bits_do_not_see_the_sign_of_a_filter() -> None:
    weight = torch.randn(4, 6, 3, 3)
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    bits = [median_bits(standardise(w).abs()) for w in (centred, -centred)]
    assert torch.equal(*bits)
    assert torch.equal(centred > 0, ~(-centred > 0))


def test_the_projection_clips_both_tails_and_is_stored() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 32, 3, 3)
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    low, high = (torch.quantile(centred.abs().flatten(), q) for q in (0.15, 0.85))
    torch.testing.assert_close(percentile(centred.abs(), 15), low)
    project(weight, 15)
    magnitudes = weight.abs()
    assert (magnitudes >= low * (1 - 1e-6)).all() and (magnitudes <= high * (1 + 1e-6)).all()
    for bound in (low, high):
        assert torch.isclose(magnitudes, bound).float().mean().item() == pytest.approx(0.15, abs=0.002)
    assert torch.equal(weight.sign(), centred.sign())


def test_without_clipping_the_projection_removes_the_mean() -> None:
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64) + 0.4
    expected = weight - weight.mean((1, 2, 3), keepdim=True)
    project(weight, 0)
    assert torch.equal(weight, expected)


def test_a_training_pass_projects_before_the_gradient_and_an_evaluation_does_not() -> None:
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    layer = make_layer()
    before = layer.weight.detach().clone()
    layer.eval()(x)
    assert torch.equal(layer.weight, before)
    projected = before.clone()
    project(projected, 15)
    y = layer.train()(x)
    assert torch.equal(layer.weight, projected)
    (gradient,) = torch.autograd.grad(y.sum(), layer.weight)
    reference = make_layer(p=0.0)
    reference.weight.data.copy_(projected)
    assert not torch.equal(gradient, torch.zeros_like(gradient)) and gradient.shape == reference.weight.shape


def test_as_in_the_authors_code_an_evaluation_may_project() -> None:
    layer = make_layer()
    x, before = torch.randn(2, 6, 5, 5, dtype=torch.float64), layer.weight.detach().clone()
    expected = layer.eval()(x)
    layer.project_in_evaluation = True
    assert torch.equal(layer(x), expected)
    assert not torch.equal(layer.weight, before)


def test_an_evaluation_uses_the_stored_bits() -> None:
    layer = make_layer()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    expected = layer.train()(x)
    layer.eval().weight.data.normal_()
    assert torch.equal(layer(x), expected)
    assert "magnitude_bits" in layer.state_dict()


def test_shifted_and_scaled_images_give_the_same_output() -> None:
    layer = make_layer()
    layer.train()(torch.randn(2, 6, 5, 5, dtype=torch.float64))
    x = torch.randn(3, 6, 5, 5, dtype=torch.float64)
    assert torch.equal(layer.eval()(x), layer(7 * x + 3))


@pytest.mark.parametrize("stride", [1, 2])
def test_both_encodings_give_the_same_integers(stride: int) -> None:
    """XNOR = 2 AND - sum of the activations = the float convolution of Ab with 2B - 1, in a layer as it is trained."""
    layer = make_layer(70, 9, stride).float()
    x = torch.randn(1, 70, 9, 9)
    layer.train()(x)
    layer.eval().alpha.data.fill_(1.0)
    geometry = {"stride": stride, "padding": 1}
    geometry_of_images = {"centred": True, **geometry}
    signs, ones = (
        PackedBinaryConv2d(layer.magnitude_bits, None, None, (9, 9), encoding=encoding, **geometry_of_images)(x)
        for encoding in ("signs", "ones")
    )
    activations = layer.input_signs(x)
    total = F.conv2d(activations.sum(1, keepdim=True), torch.ones(1, 1, 3, 3), **geometry)
    assert torch.equal(signs, layer(x))
    assert torch.equal(2 * ones - total, signs)
    assert torch.equal(ones, F.conv2d(activations, layer.magnitude_bits.float(), **geometry))


@pytest.mark.parametrize(("epoch", "value"), [(0, 15), (1, 14.9625), (100, 11.25), (200, 7.5), (399, 0.0375)])
def test_the_percentage_falls_linearly(epoch: int, value: float) -> None:
    assert ClippingSchedule(15.0).percent(epoch, 400) == pytest.approx(value, abs=1e-12)


def test_the_schedule_sets_every_layer_and_counts_ones() -> None:
    model = nn.Sequential(make_layer(), make_layer(4))
    state, hook = State(model, [], epochs=4, steps_per_epoch=1, epoch=1), ClippingSchedule(15.0)
    hook.on_epoch_start(state)
    assert [layer.p.item() for layer in magnitude_layers(model)] == [11.25] * 2
    hook.on_epoch_end(state)
    assert 0.4 < state.metrics["share_of_ones"] < 0.6


@pytest.mark.parametrize("p", [-1.0, 50.0])
def test_impossible_percentages_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"p must be in \[0, 50\)"):
        make_layer(p=p)
    with pytest.raises(ValidationError):
        SiMaN.Config(p=p)


@pytest.mark.parametrize(
    ("architecture", "free", "decayed"),
    [
        ("binary_resnet_cifar", 267_936, 3_258),
        ("binary_resnet18_cifar", 10_989_312, 190_410),
        ("binary_vgg_small", 4_572_800, 90_762),
        ("binary_resnet18", 10_989_312, 708_904),
        ("binary_resnet34", 21_093_760, 720_040),
    ],
)
def test_latent_weights_and_scales_do_not_decay(architecture: str, free: int, decayed: int) -> None:
    with torch.device("meta"):
        model = models.build(architecture, form="siman")
    binarise(model, lambda layer: MagnitudeConv2d.rebuild(layer, {}))
    groups = parameter_groups(model, decay_latent=False)
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [decayed, free]
    assert groups[1]["weight_decay"] == 0 and "weight_decay" not in groups[0]
    assert sum(p.numel() for p in parameter_groups(model, decay_latent=True)[0]["params"]) == free + decayed


def test_counts_of_the_small_network() -> None:
    with torch.device("meta"):
        model = models.build("binary_resnet_cifar", blocks=[1, 1, 1], in_channels=1, form="siman")
    counts = binary_counts(binarise(model, lambda layer: MagnitudeConv2d.rebuild(layer, {})), (1, 28, 28))
    expected = {
        "binary_convolutions": 6, "binary_weights": 73_728, "scales": 224, "params": 75_578,
        "binary_macs": 9_031_680, "float_macs": 113_536, "ops": 254_656,
    }  # fmt: skip
    assert {name: counts[name] for name in expected} == expected


def test_facts_equal_the_published_counts_to_the_last_digit() -> None:
    with (FOLDER / "published.csv").open(encoding="utf-8") as file:
        printed = {(r["model"], r["setting"], r["metric"]): r["value"] for r in csv.DictReader(file)}
    recomputed = SiMaN.published_counts()
    assert len(recomputed) == 5 * 12
    for count in recomputed:
        value = printed[count.model, count.setting, count.metric]
        digits = len(value.partition(".")[2])
        assert count.value == pytest.approx(float(value), abs=0.5 * 10**-digits), count


def test_scales_start_as_mean_magnitudes_of_the_default_initialisation(data_root: Path, tmp_path: Path) -> None:
    model = SiMaN(SiMaN.Config()).network(make_binary_context(data_root, tmp_path))
    for layer in magnitude_layers(model):
        expected = 0.5 / layer.weight[0].numel() ** 0.5
        assert layer.alpha.mean().item() == pytest.approx(expected, rel=0.15)


def test_it_trains_and_the_deployed_network_runs_on_the_packed_kernel(data_root: Path, tmp_path: Path) -> None:
    ctx = make_binary_context(data_root, tmp_path, epochs=2)
    model = SiMaN(SiMaN.Config(rate="recipe")).compress(ctx)
    assert (tmp_path / "compress" / "latent.safetensors").exists() and "ties" in ctx.records
    assert all(layer.centred for layer in binary_layers(model).values())
    x, runtime = ctx.data.test.images[:1], NativeRuntime()
    with torch.no_grad():
        expected, call = model(x), runtime.prepare(model, x)
        torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
    assert runtime.forms["binary"] == 4


def test_what_is_stored_computes_what_was_trained(data_root: Path, tmp_path: Path) -> None:
    model = SiMaN(SiMaN.Config()).network(make_binary_context(data_root, tmp_path))
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        model.train()(x)
        expected = model.eval()(x)
        torch.testing.assert_close(one_bit(model)(x), expected)


@pytest.mark.parametrize(
    ("pair", "convolutions"),
    [
        ("cifar10/binary_resnet20", 18),
        ("cifar10/binary_resnet18_cifar", 19),
        ("cifar10/binary_vgg_small", 5),
        ("imagenet/binary_resnet18", 16),
        ("imagenet/binary_resnet34", 32),
    ],
)
def test_one_iteration_at_full_size(pair: str, convolutions: int, tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, pair, "siman", "w1a1")
    model = SiMaN(SiMaN.Config()).compress(ctx)
    assert len(binary_layers(model)) == convolutions
