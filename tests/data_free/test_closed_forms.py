"""What the data-free methods share: consecutive layers, moments without data, restored statistics, weights on a grid."""

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.data_free.closed_forms import (
    Signal,
    consecutive_pairs,
    folded,
    input_signals,
    move_statistics,
    quantize_rest,
    relu_moments,
    uniform,
)
from compressbench.errors import UserError
from compressbench.layers.packing import pack_weight
from compressbench.layers.quantized import QuantConv2d
from compressbench.runtimes.integer import integer_network
from tests.data_free.networks import network, random
from tests.empty_ranges import TENSORS

SMALL = {"in_channels": 1, "blocks": (1, 1), "widths": (4, 8), "shortcut": "conv"}


# ---- consecutive layers


def test_pairs_of_a_plain_network_are_a_chain_that_ends_in_the_classifier() -> None:
    pairs = consecutive_pairs(network("plain", widths=(4, 4, 4), strides=(1, 1, 1)))
    assert [(p.layer, p.reader, p.reader_norm) for p in pairs] == [
        ("body.0.conv", "body.1.conv", "body.1.bn"),
        ("body.1.conv", "body.2.conv", "body.2.bn"),
        ("body.2.conv", "classifier", None),
    ]


def test_only_convolutions_inside_a_block_feed_one_other() -> None:
    basic = consecutive_pairs(network("resnet_cifar", **SMALL))
    assert [(p.layer, p.norm, p.reader, p.reader_norm) for p in basic] == [
        (f"stages.{s}.0.conv1", f"stages.{s}.0.bn1", f"stages.{s}.0.conv2", f"stages.{s}.0.bn2") for s in range(2)
    ]
    with torch.device("meta"):
        bottleneck = consecutive_pairs(models.build("resnet50"))
    assert len(bottleneck) == 2 * 16, "the stem feeds two layers"
    assert {(p.layer[-5:], p.reader[-5:]) for p in bottleneck} == {("conv1", "conv2"), ("conv2", "conv3")}


def test_networks_without_batch_norm_or_without_a_pair_are_refused() -> None:
    bare = network("plain")
    bare.set_submodule("body.1.bn", nn.Identity())
    with pytest.raises(UserError, match=r"body\.1\.conv has no batch norm"):
        consecutive_pairs(bare)
    with pytest.raises(UserError, match="no two layers"):
        consecutive_pairs(models.build("srresnet", blocks=1, channels=8))


@pytest.mark.parametrize("bias", [False, True])
def test_folded_rows_and_offsets_are_the_layer_with_its_norm(bias: bool) -> None:
    model = network("vgg", in_channels=2, stages=[(1, 5)], conv_bias=bias)
    unit = model.body[0][0]
    if bias:
        unit.conv.bias.data.normal_()
    rows, offsets = folded(unit.conv.weight, unit.conv.bias, unit.bn)
    patch = random(1, 2, 3, 3)
    centre = unit.bn(unit.conv(patch))[0, :, 1, 1]
    torch.testing.assert_close(rows @ patch.flatten() + offsets, centre)


# ---- moments


def test_clipped_normal_moments() -> None:
    mean, variance = relu_moments(*torch.tensor([[0, 1, -3], [1, 0.5, 0]], dtype=torch.float64))
    assert mean.tolist() == pytest.approx([0.398942, 1.004245, 0], abs=1e-6)
    assert variance[0].item() == pytest.approx(0.340845, abs=1e-6) and variance[2] == 0
    for beta, gamma in ((0.0, 1.0), (1.0, 0.5), (-0.7, 1.3)):
        sample = (beta + gamma * random(2_000_000)).clamp(min=0)
        expected = [float(x) for x in relu_moments(*torch.tensor([beta, gamma], dtype=torch.float64))]
        assert [sample.mean().item(), sample.var().item()] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("beta", "gamma"), [(0.0, 1.0), (5.0, 2.0), (3.0, 4.0), (8.0, 1.0)])
def test_moments_of_a_relu6_are_those_of_a_sample(beta: float, gamma: float) -> None:
    sample = (beta + gamma * random(2_000_000)).clamp(0, 6)
    found = relu_moments(*torch.tensor([beta, gamma], dtype=torch.float64), 6.0)
    assert [float(x) for x in found] == pytest.approx([sample.mean().item(), sample.var().item()], abs=6e-3)


def test_a_network_of_inverted_residuals_has_one_pair_of_consecutive_layers_with_a_relu6_between() -> None:
    model = models.build("efficientnet_lite0")
    (pair,) = consecutive_pairs(model)
    assert (pair.layer, pair.reader, pair.ceiling) == ("last.conv", "classifier", 6)
    signals = input_signals(model)
    read = signals["classifier"]
    assert isinstance(read, Signal) and float(read.mean.min()) >= 0 and float(read.high.max()) <= 6


def test_a_constant_passes_a_relu() -> None:
    mean, variance = relu_moments(torch.tensor([2.0, -2.0, 0.0]), torch.zeros(3))
    assert mean.tolist() == [2, 0, 0] and variance.tolist() == [0, 0, 0]


def test_a_residual_sum_adds_means_and_variances() -> None:
    """Identity with (m, v) = (0.4, 0.3), β2 = 0.1, γ2 = 0.5: N(0.5, 0.55) before the ReLU."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.conv, self.relu = nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.ReLU()
            self.bn2, self.end = nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.bn(x)
            return self.end(self.relu(self.bn2(self.conv(x)) + x))

    block = Block()
    for norm, beta, gamma in ((block.bn, 0.4, 0.3**0.5), (block.bn2, 0.1, -0.5)):
        nn.init.constant_(norm.bias, beta)
        nn.init.constant_(norm.weight, gamma)
    signals = input_signals(block)
    seen = signals["conv"]
    assert seen is not None and [float(x) for x in seen[:2]] == pytest.approx([0.4, 0.3])
    mean, variance = relu_moments(torch.tensor([0.5]).double(), torch.tensor([0.55]).double().sqrt())
    end = signals["end"]
    assert isinstance(end, Signal)
    assert [float(x) for x in end] == pytest.approx([float(mean), float(variance), 0.5 + 6 * 0.55**0.5])


@pytest.mark.parametrize("shortcut", ["conv", "pad"])
def test_signals_are_those_of_independent_channels(shortcut: str) -> None:
    """What the layers read when the outputs of all batch norms really are independent and normal."""
    model = network("resnet_cifar", **SMALL | {"shortcut": shortcut})
    signals = input_signals(model)
    image = signals["stem.conv"]
    assert image is not None and image.mean.tolist() == [0] and image.variance.tolist() == [1]

    drawn, seen = torch.Generator().manual_seed(1), {}

    def as_remembered(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        noise = torch.randn(200, *output.shape[1:], generator=drawn, dtype=output.dtype)
        return norm.bias[:, None, None] + norm.weight[:, None, None] * noise  # type: ignore[index,operator]

    for name, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            m.register_forward_hook(as_remembered)
        if isinstance(m, nn.Conv2d):
            m.register_forward_pre_hook(lambda _, x, name=name: seen.__setitem__(name, x[0]))
    model(random(200, 1, 16, 16))
    behind_a_sum = "stages.1.0.conv1"  # of a normal and a clipped normal, which is taken as normal
    for name in ("stages.0.0.conv1", "stages.0.0.conv2", behind_a_sum, "stages.1.0.conv2"):
        signal, x = signals[name], seen[name].transpose(0, 1).flatten(1)
        assert signal is not None
        for found, expected in ((x.mean(1), signal.mean), (x.var(1), signal.variance)):
            near = 0.3 if name == behind_a_sum else 0.03
            torch.testing.assert_close(found, expected, atol=near / 2, rtol=near, msg=lambda m, n=name: f"{n}: {m}")
        assert name == behind_a_sum or bool((x.amax(1) <= signal.high).all())


def test_what_no_rule_covers_is_named() -> None:
    with pytest.raises(UserError, match="Hardswish"):
        input_signals(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Hardswish(), nn.Conv2d(2, 1, 1)))
    assert input_signals(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)))["2"] is None


def test_moved_statistics_give_the_same_normalised_output() -> None:
    norm = nn.BatchNorm2d(3, eps=0.1).double().eval()
    norm.running_var.uniform_(0.5, 2)
    x, ratio, shift = random(2, 3, 4, 4), torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([1.0, -2.0, 0.0])
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    expected = norm(x)
    move_statistics(norm, shift, ratio)
    spread = (ratio.sqrt() * (x.movedim(1, 3) - mean) + mean + shift).movedim(3, 1)
    torch.testing.assert_close(norm(spread), expected)
    move_statistics(norm, torch.zeros(3), torch.tensor([0.0, 1e-9, 1.0]).double())
    torch.testing.assert_close(norm.running_var[0], variance[0] * 0.5 + 0.1 * 0.5 - 0.1)
    assert norm.running_var[1] == 0, "clamped: ε alone is more than the variance"


# ---- weights on a grid


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("per_channel", [False, True])
def test_uniform_grid(bits: int, per_channel: bool) -> None:
    weight = random(6, 5, 3, 3)
    rounded, step, _ = uniform(weight, bits, per_channel)
    q = 2 ** (bits - 1) - 1
    rows = rounded if per_channel else rounded.reshape(1, -1)
    assert max(len(row.unique()) for row in rows) <= 2 * q + 1
    assert bool(((weight - rounded).abs() <= step / 2 * (1 + 1e-12)).all())
    assert torch.equal(rounded.abs().amax(), weight.abs().amax()) or bits == 6
    torch.testing.assert_close(uniform(rounded, bits, per_channel).weight, rounded, rtol=1e-12, atol=1e-12)
    assert torch.equal(uniform(-weight, bits, per_channel).weight, -rounded)


def test_zeros_and_32_bits_stay_and_one_bit_is_refused() -> None:
    assert torch.equal(uniform(torch.zeros(2, 3), 4).weight, torch.zeros(2, 3))
    weight = random(2, 3)
    assert uniform(weight, 32).weight is weight
    with pytest.raises(ValueError, match="at least 2 bits"):
        uniform(weight, 1)


@pytest.mark.parametrize("values", TENSORS)
def test_what_has_no_range_keeps_its_value(values: str) -> None:
    x = TENSORS[values]
    for per_channel in (False, True):
        rounded = uniform(x, 4, per_channel)
        assert rounded.weight.isfinite().all() and (rounded.step > 0).all()
        if values != "99 % zero":
            torch.testing.assert_close(rounded.weight, x)


def test_ties_go_to_even() -> None:
    assert uniform(torch.tensor([3.0, 0.5, 1.5, -0.5]), 3).weight.tolist() == [3, 0, 2, 0]


def test_every_layer_is_stored_on_its_grid() -> None:
    model = quantize_rest(network("resnet_cifar", **SMALL).float(), 6)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 7 and all(type(m).__name__.startswith("Quant") for m in layers)
    for layer in layers:
        assert torch.equal(layer.weight, layer.effective_weight()), "what is stored is what is used"
        torch.testing.assert_close(pack_weight(layer).weight(), layer.weight)
        assert layer.input_bits == 32
    images = random(4, 1, 16, 16).float()
    torch.testing.assert_close(integer_network(model)(images), model(images), rtol=1e-4, atol=1e-4)


def test_quantized_activations_reach_to_six_deviations_and_spare_the_image() -> None:
    model = network("resnet_cifar", **SMALL).float()
    signals = input_signals(model)
    quantized = quantize_rest(model, 6, input_bits=8)
    assert quantized.get_submodule("stem.conv").inputs == "none"
    layer = quantized.get_submodule("stages.0.0.conv2")
    assert isinstance(layer, QuantConv2d) and (layer.inputs, layer.input_bits) == ("unsigned", 8)
    norm, signal = model.get_submodule("stages.0.0.bn1"), signals["stages.0.0.conv2"]
    assert signal is not None
    torch.testing.assert_close(signal.high.float(), (norm.bias + 6 * norm.weight.abs()).clamp(min=0))
    assert layer.input_scale.item() == pytest.approx(float(signal.high.max()) / 255)
    x = torch.linspace(0, float(signal.high.max()), 999)
    assert (layer.effective_input(x) - x).abs().max() <= layer.input_scale / 2 * 1.001


# ---- pruning
