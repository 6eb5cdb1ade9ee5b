"""Quantized models in ONNX Runtime's int8 arithmetic compute what the simulated quantizers compute."""

import onnx
import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.layers.bounds import BoundedActivation
from compressbench.layers.learned_steps import DorefaConv2d, LearnedStepActivation, LearnedStepConv2d, PactActivation
from compressbench.layers.observed import ObservedActivation, observe
from compressbench.layers.quantized import quantize_activation, quantize_layer, track_ranges
from compressbench.layers.ranged import RangedConv2d
from compressbench.layers.registry import replace_modules
from compressbench.quantization import post_training
from compressbench.quantization.post_training import PostTrainingConfig, quantize_post_training
from compressbench.runtimes.base import Runtime, Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.runtimes.integer import NoIntegerForm, integer_network, without_clamps
from compressbench.runtimes.onnx_export import export


def intraq_network(bits: int) -> nn.Module:
    """A small residual network whose batch norms do something, quantized as IntraQ does it, its ranges tracked."""
    torch.manual_seed(bits)
    model = models.build("resnet_cifar", blocks=[1, 1], widths=[16, 32], shortcut="conv", classes=10)

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        if type(module) in (nn.Conv2d, nn.Linear):
            return quantize_layer(module, bits, bits)
        return quantize_activation(module, bits, "plain") if type(module) is nn.ReLU else None

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 2)  # a negative factor turns the signs of the integers
            nn.init.uniform_(module.bias, -1, 1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    replace_modules(model, replace).eval()
    track_ranges(model, True)
    with torch.no_grad():
        for _ in range(60):
            model(torch.randn(8, 3, 16, 16))
    track_ranges(model, False)
    return model


def assert_on_the_models_grids(runtime: Runtime, model: nn.Module) -> None:
    """The outputs on five images are the model's own."""
    errors = []
    with torch.no_grad():
        for seed in range(5):
            x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
            result, expected = torch.as_tensor(runtime.prepare(model, x)()), model(x)
            errors.append(float((result - expected).norm() / expected.norm()))
    # A tie that float arithmetic breaks otherwise moves a value by a whole step now and then.
    assert sorted(errors)[2] < 0.02
    assert max(errors) < 0.2


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_a_residual_network_runs_in_int8_with_the_methods_own_scales(bits: int) -> None:
    runtime = make_runtime("onnxruntime_int8")
    assert_on_the_models_grids(runtime, intraq_network(bits))
    assert "2 of 7 layers in int8" in runtime.describe()["layers"]


@pytest.mark.parametrize("bits", range(2, 9))
def test_post_training_quantization_of_every_width_runs_in_int8(bits: int) -> None:
    torch.manual_seed(bits)
    model = models.build("resnet_cifar", blocks=[1, 1], widths=[16, 32], shortcut="conv", classes=10).eval()
    config = PostTrainingConfig(weight_bits=bits, activation_bits=bits, first_last_bits=None)
    images = torch.randn(16, 3, 16, 16)
    quantize_post_training(model, post_training.observe(model, [images], config, "mse"), config, "mse")
    runtime, errors = make_runtime("onnxruntime_int8"), []
    with torch.no_grad():
        for image in images[:5]:
            result, expected = torch.as_tensor(runtime.prepare(model, image[None])()), model(image[None])
            errors.append(float((result - expected).norm() / expected.norm()))
    assert sorted(errors)[2] < 0.02


def test_the_graph_carries_integers_and_the_grid_of_the_model() -> None:
    model = intraq_network(4)
    graph = onnx.load_from_string(export(integer_network(model), torch.randn(1, 3, 16, 16))).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    codes = tensors["stem.conv.codes"]
    assert codes.dtype == "int8"
    assert len(set(codes[0].flatten().tolist())) <= 16
    steps = torch.from_numpy(tensors["stem.act.round.scale"].copy())
    torch.testing.assert_close(steps, model.stem.act.grid().scale)


CONVOLUTIONS = {
    "lsq": lambda c: LearnedStepConv2d.rebuild(c, {"weight_bits": 4, "input_bits": 4}),
    "dorefa": lambda c: DorefaConv2d.rebuild(c, {"weight_bits": 4, "input_bits": 4, "rescale": True}),
    "percentile": lambda c: RangedConv2d.rebuild(
        c, {"weight_bits": 4, "input_bits": 4, "weight_range": "percentile", "percentile": 99.0}
    ),
}
ACTIVATIONS = {
    "lsq": lambda: LearnedStepActivation(4),
    "pact": lambda: PactActivation(4, start_at=None),
    "observed symmetric": lambda: ObservedActivation(4, "symmetric"),
    "observed asymmetric": lambda: ObservedActivation(4, "asymmetric"),
    "dual bounds": lambda: BoundedActivation(4),
    "symmetric bound": lambda: BoundedActivation(4, "symmetric"),
}


@pytest.mark.parametrize("rectified", [False, True], ids=["signed", "rectified"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_every_kind_of_quantizer_has_its_integer_form(convolution: str, activation: str, rectified: bool) -> None:
    torch.manual_seed(1)

    def layer() -> list[nn.Module]:
        between = [nn.ReLU()] if rectified else []
        return [ACTIVATIONS[activation](), CONVOLUTIONS[convolution](nn.Conv2d(8, 8, 3, padding=1)), *between]

    model = nn.Sequential(*layer(), *layer(), *layer())
    x = torch.rand(1, 8, 12, 12) if rectified else torch.randn(1, 8, 12, 12)
    runtime = make_runtime("onnxruntime_int8")
    with torch.no_grad():
        observe(model, True)
        model.eval()(x)
        observe(model, False)
        expected = model(x)
        result = torch.as_tensor(runtime.prepare(model, x)())
    assert (result - expected).norm() < 0.1 * expected.norm()
    assert (result - expected).abs().median() < 1e-4 * expected.abs().max()
    # ONNX Runtime leaves out a rectifier before a grid that begins at 0, and else cannot fuse beyond it.
    integer = 0 if rectified and activation == "symmetric bound" else 2
    assert f"{integer} of 3 layers in int8" in runtime.describe()["layers"]


def test_dead_constant_and_tiny_filters_run_in_int8_beside_others() -> None:
    """Their biases too, though ONNX Runtime counts a bias in units of the filter's step."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)]
    for layer in layers:
        with torch.no_grad():
            layer.weight[0], layer.weight[1] = 0, 0.1
            layer.weight[2] *= 1e-9
            layer.weight[3] *= 1e-6
    quantized = [quantize_layer(layer, 4, 4) for layer in layers]
    activations = [quantize_activation(nn.ReLU(), 4, "plain") for _ in range(3)]
    model = nn.Sequential(activations[0], quantized[0], activations[1], quantized[1], activations[2]).eval()
    for activation in activations:
        activation.hi.fill_(1.0)
    x, runtime = torch.rand(1, 8, 12, 12), make_runtime("onnxruntime_int8")
    with torch.no_grad():
        expected, result = model(x), torch.as_tensor(runtime.prepare(model, x)())
    assert (result - expected).abs().mean((0, 2, 3)).max() < 0.01
    assert "2 of 2 layers in int8" in runtime.describe()["layers"]


def test_what_has_no_integer_form_is_skipped_with_the_reason() -> None:
    gated = nn.Sequential(BoundedActivation(4, gate_channels=8), CONVOLUTIONS["lsq"](nn.Conv2d(8, 8, 3)))
    runtime = make_runtime("onnxruntime_int8")
    with torch.no_grad():
        gated.eval()(torch.randn(1, 8, 5, 5))
    with pytest.raises(Skip, match="a gate moves the range"):
        runtime.prepare(gated, torch.randn(1, 8, 5, 5))
    eight = quantize_layer(nn.Conv2d(8, 4, 3), 8, 8)
    with torch.no_grad():
        eight.weight[0].abs_().add_(1)
    with pytest.raises(NoIntegerForm, match="need more than int8"):
        integer_network(nn.Sequential(eight))
    off_grid = quantize_layer(nn.Conv2d(8, 4, 3), 4, 4)
    off_grid.effective_weight = lambda: off_grid.weight  # type: ignore[method-assign]
    with pytest.raises(Skip, match="do not lie on a grid of 4 bits"):
        runtime.prepare(nn.Sequential(off_grid), torch.randn(1, 8, 5, 5))
    endless = quantize_activation(nn.ReLU(), 4, "plain")
    endless.hi.fill_(torch.inf)
    with pytest.raises(Skip, match="range of an activation is not finite"):
        runtime.prepare(nn.Sequential(endless, quantize_layer(nn.Conv2d(8, 4, 3), 4, 4)), torch.randn(1, 8, 5, 5))
    assert runtime.objection(nn.Sequential(nn.Conv2d(8, 4, 3))) == "nothing is quantized"
    assert runtime.objection(gated) == ""


def rounded(high: float, bits: int, inputs: str = "asymmetric") -> nn.Module:
    """A layer that rounds its input to [0, high]."""
    layer = quantize_layer(nn.Conv2d(4, 4, 1), bits, bits, "symmetric", inputs=inputs)
    if inputs != "none":
        layer.input_scale.fill_(high / (2**bits - 1))
    layer.weight_scale.fill_(0.01)
    return layer


@pytest.mark.parametrize(
    ("relu", "layer", "is_kept"),
    [
        (nn.ReLU(), rounded(2.0, 4), False),
        (nn.ReLU6(), rounded(2.0, 4), False),
        (nn.ReLU6(), rounded(6.2, 4), False),  # 6 goes to the highest value
        (nn.ReLU6(), rounded(8.0, 4), True),
        (nn.ReLU(), rounded(8.0, 4), False),
        (nn.ReLU(), rounded(2.0, 4, "symmetric"), True),  # its grid has negative values
        (nn.ReLU(), rounded(2.0, 4, "none"), True),
        (nn.Hardswish(), rounded(2.0, 4), True),
    ],
)
def test_a_clamp_is_left_out_only_where_the_grid_does_the_same(
    relu: nn.Module, layer: nn.Module, is_kept: bool
) -> None:
    model = nn.Sequential(relu, layer).eval()
    x = torch.linspace(-9, 9, 400).reshape(1, 4, 10, 10)
    expected = model(x)
    without_clamps(model)
    assert torch.equal(model(x), expected) and (model[0] is relu) == is_kept


class TwoReaders(nn.Module):
    """A ReLU whose values are also added."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.layer = nn.ReLU(), rounded(2.0, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(x)
        return x + self.layer(x)


def test_a_clamp_that_others_read_stays() -> None:
    assert isinstance(without_clamps(TwoReaders()).relu, nn.ReLU)


def test_a_relu6_does_not_keep_the_layer_before_it_out_of_int8() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(rounded(1.0, 4), nn.ReLU6(), rounded(6.0, 4)).eval()
    model[0].bias.data.uniform_(0, 6)
    runtime, x = make_runtime("onnxruntime_int8"), torch.rand(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(runtime.prepare(model, x)()), model(x), atol=0.1, rtol=0)
    assert runtime.describe()["layers"] == "1 of 2 layers in int8"
