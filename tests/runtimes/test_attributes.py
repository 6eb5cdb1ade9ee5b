"""Whatever a layer is set to, every runtime computes what PyTorch computes, or says that it cannot."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.layers.binary import SignConv2d
from compressbench.layers.deployment import deploy
from compressbench.layers.folding import convolution_norm_pairs, fold_norms
from compressbench.layers.learned_steps import LearnedStepActivation
from compressbench.layers.masked import MaskedConv2d, masked
from compressbench.layers.quantized import QuantizedActivation, quantize_layer
from compressbench.layers.ranged import RangedConv2d
from compressbench.runtimes.base import Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.runtimes.native import forms

SHAPE = (1, 4, 9, 9)
MODES = ("reflect", "replicate", "circular")


@pytest.fixture(autouse=True, params=["fastest", "last"])
def chosen_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whichever form wins the trial, the result is the same: also take the last one that is offered."""
    torch.manual_seed(0)
    if request.param == "last":
        monkeypatch.setattr(forms, "fastest", lambda forms, **_: [*forms][-1])
    with torch.no_grad():
        yield


class Calls(nn.Module):
    """The modules by number, in a forward pass of one's own."""

    def __init__(self, forward: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(f"m{i}", layer)
        self.own = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x, *self.children())


def convolution(**settings: object) -> nn.Conv2d:
    return nn.Conv2d(4, 4, **({"kernel_size": 3, "padding": 1} | settings))


def norm(**settings: object) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(4, **settings)
    for tensor in (layer.running_mean, layer.weight, layer.bias):
        if tensor is not None:
            tensor.normal_()
    return layer


def hooked() -> nn.Conv2d:
    layer = convolution()
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    return layer


def bright() -> nn.Conv2d:
    layer = convolution()
    nn.init.constant_(layer.bias, 100.0)
    return layer


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Negative(nn.Identity):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def relu_to_two() -> nn.ReLU6:
    layer = nn.ReLU6()
    layer.max_val = 2.0
    return layer


def shared_weight() -> nn.Module:
    first, second = convolution(), convolution()
    second.weight = first.weight
    return nn.Sequential(first, norm(), second, norm())


def shared_norm() -> nn.Module:
    layer = norm()
    return nn.Sequential(convolution(), layer, convolution(), layer)


def one_convolution_two_norms() -> nn.Module:
    layer = convolution()
    return nn.Sequential(layer, norm(), layer, norm())


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.positions = convolution(), nn.Parameter(torch.randn(SHAPE))

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.conv(x) + self.positions + self.positions.flatten(1).view_as(x) * scale


def split(x: Tensor, conv: nn.Module) -> Tensor:
    a, b = conv(x).split(2, 1)
    return torch.cat([b, 2 * a], 1)


def by_size(x: Tensor, conv: nn.Module, linear: nn.Module) -> Tensor:
    y = conv(x)
    return linear(y.reshape(y.shape[0], y.size(1), -1).mean(2))


def pooled_indices(x: Tensor, conv: nn.Module, pool: nn.Module) -> Tensor:
    y, indices = pool(conv(x))
    return y + indices / 7


def images_in_the_batch(x: Tensor, conv: nn.Module) -> Tensor:
    return conv(x.reshape(3, 4, 3, 9)).reshape(1, 4, 9, 9)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"padding {mode}": lambda mode=mode: nn.Sequential(convolution(padding_mode=mode), norm()) for mode in MODES},
    **{f"depthwise {m}": lambda m=m: nn.Sequential(convolution(padding_mode=m, groups=4)) for m in MODES},
    "padding by name": lambda: nn.Sequential(convolution(padding="same"), convolution(padding="valid")),
    "padding of a 1x1 convolution": lambda: nn.Sequential(convolution(kernel_size=1), convolution(kernel_size=1, stride=2)),
    "two paddings": lambda: nn.Sequential(convolution(padding=(0, 2))),
    "two strides": lambda: nn.Sequential(convolution(stride=(1, 2))),
    "two kernel sizes": lambda: nn.Sequential(convolution(kernel_size=(1, 3), padding=(0, 1))),
    "padding beyond the kernel": lambda: nn.Sequential(convolution(padding=3)),
    "dilation": lambda: nn.Sequential(convolution(dilation=2), norm()),
    "groups": lambda: nn.Sequential(convolution(groups=2), norm()),
    "a forward of its own": lambda: nn.Sequential(Doubled(4, 4, 3), norm()),
    "a hook on a convolution": lambda: nn.Sequential(hooked(), norm()),
    "transposed": lambda: nn.Sequential(convolution(), nn.ConvTranspose2d(4, 4, 3, 2, output_padding=1), norm()),
    "norm of the batch": lambda: nn.Sequential(convolution(), norm(track_running_stats=False)),
    "norm without affine": lambda: nn.Sequential(convolution(), norm(affine=False)),
    "norm without bias": lambda: nn.Sequential(convolution(), norm(bias=False)),
    "norm with eps": lambda: nn.Sequential(convolution(), norm(eps=0.5)),
    "norm by keyword": lambda: Calls(lambda x, conv, bn: bn(input=conv(input=x)), convolution(), norm()),
    "a weight of two convolutions": shared_weight,
    "a norm of two convolutions": shared_norm,
    "a convolution of two norms": one_convolution_two_norms,
    "an identity that is none": lambda: nn.Sequential(convolution(), Negative(), nn.ReLU()),
    "a ReLU6 that ends at 2": lambda: nn.Sequential(convolution(), relu_to_two()),
    "alpha": lambda: Calls(lambda x, c: torch.add(c(x), x, alpha=2), convolution()),
    "negative alpha": lambda: Calls(lambda x, c: torch.add(x, c(x), alpha=-1), convolution()),
    "a sum by keyword": lambda: Calls(lambda x, c: F.relu(torch.add(c(x), other=x)), convolution()),
    "a sum that is broadcast": lambda: Calls(lambda x, c: c(x.mean((2, 3), True)) + x, convolution(kernel_size=1, padding=0)),
    "a sum of two types": lambda: Calls(lambda x, c: c(x) + x.double(), convolution()),
    "a sum with itself": lambda: Calls(lambda x, c: (y := c(x)) + y, convolution()),
    "split": lambda: Calls(split, convolution()),
    "sizes": lambda: Calls(by_size, convolution(), nn.Linear(4, 3)),
    "a parameter and a default": Positions,
    "several images inside": lambda: Calls(images_in_the_batch, convolution(kernel_size=1, padding=0)),
    "one image without a batch": lambda: Calls(lambda x, c: c(x[0]).unsqueeze(0), convolution()),
    "ceil_mode": lambda: nn.Sequential(convolution(), nn.MaxPool2d(2, ceil_mode=True)),
    "return_indices": lambda: Calls(pooled_indices, convolution(), nn.MaxPool2d(2, return_indices=True)),
    "count_include_pad": lambda: nn.Sequential(
        convolution(), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
    ),
    "divisor_override": lambda: nn.Sequential(convolution(), nn.AvgPool2d(2, divisor_override=3)),
    "rounding_mode": lambda: Calls(lambda x, c: torch.div(c(x), 0.1, rounding_mode="floor") * 0.01, convolution()),
    "values clipped in place": lambda: nn.Sequential(
        bright(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Hardtanh(-9, 9, inplace=True), nn.Linear(4, 3)
    ),
    "changed in place between": lambda: Calls(
        lambda x, c, d: F.relu(torch.add(c(z := d(x)), z.mul_(3) * 2)), convolution(), convolution()
    ),
}  # fmt: skip

CANNOT = {
    ("torch_compiled", "divisor_override"): "does not support divisor",
    ("onnxruntime", "divisor_override"): "no average pooling with the divisor of 1",
    ("onnxruntime", "a sum of two types"): "tensor.double., not float32",
    ("onnxruntime", "a parameter and a default"): "Missing Input",
}


def assert_same(runtime: str, model: nn.Module, x: Tensor, share: float = 1e-5) -> None:
    """`share`: of the norm of the output."""
    expected = model(x.clone())
    call = make_runtime(runtime).prepare(model, x)
    for _ in range(2):
        output = torch.as_tensor(call())
        assert output.shape == expected.shape
        assert (output - expected).norm() <= share * expected.norm()


@pytest.mark.parametrize("name", NETWORKS)
def test_deployed_and_folded_network_computes_the_same(name: str) -> None:
    model, x = masked(NETWORKS[name]()).eval(), torch.randn(SHAPE)
    expected = model(x.clone())
    torch.testing.assert_close(deploy(model)(x.clone()), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fold_norms(deploy(model))(x.clone()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runtime", ["compressbench", "torch_eager", "torch_compiled", "onnxruntime"])
@pytest.mark.parametrize("name", NETWORKS)
def test_runtime_computes_the_masked_network(runtime: str, name: str) -> None:
    model = masked(NETWORKS[name]()).eval()
    for layer in model.modules():
        if isinstance(layer, MaskedConv2d):
            layer.mask.copy_(torch.rand_like(layer.weight) > 0.5)
    if reason := CANNOT.get((runtime, name)):
        with pytest.raises(Skip, match=reason):
            make_runtime(runtime).prepare(model, torch.randn(SHAPE))
    else:
        assert_same(runtime, model, torch.randn(SHAPE))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x, c: (c(x), x), "something else than one tensor"),
        (lambda x, c: x.mul_(2) + c(x), "changes x in place"),
        (lambda x, c: (y := c(x)) + y.flatten(1).relu_().view_as(x), "changes m0 in place"),
    ],
    ids=["two results", "the input", "a view of what is read again"],
)
def test_our_kernels_refuse_what_they_would_compute_in_another_order(
    forward: Callable[..., Tensor], reason: str
) -> None:
    with pytest.raises(Skip, match=reason):
        make_runtime("compressbench").prepare(masked(Calls(forward, convolution())).eval(), torch.randn(SHAPE))


GEOMETRIES: dict[str, dict[str, object]] = {
    **{mode: {"padding_mode": mode} for mode in MODES},
    "by name": {"padding": "same"},
    "two paddings": {"padding": (0, 2)},
    "two strides": {"stride": (2, 1)},
    "two kernel sizes": {"kernel_size": (1, 3)},
    "dilation": {"dilation": 2},
    "groups": {"groups": 2},
    "plain": {},
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("normed", [False, True], ids=["alone", "with a norm"])
def test_binary_convolution_of_any_geometry(geometry: str, normed: bool) -> None:
    layer = SignConv2d.rebuild(convolution(**GEOMETRIES[geometry]), {"scaling": "mean"})
    model = nn.Sequential(layer, norm(track_running_stats=geometry != "plain")) if normed else nn.Sequential(layer)
    assert_same("compressbench", model.eval(), torch.randn(SHAPE))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("normed", [False, True], ids=["alone", "with a norm"])
def test_int8_convolution_of_any_geometry(geometry: str, normed: bool) -> None:
    """The second layer is of the usual kind: without it there would be nothing in int8."""
    layers = [
        RangedConv2d.rebuild(
            layer, {"weight_bits": 8, "input_bits": 8, "weight_range": "symmetric", "percentile": 100.0}
        )
        for layer in (convolution(**GEOMETRIES[geometry]), convolution())
    ]
    quantizers = [LearnedStepActivation(8) for _ in layers]
    model = nn.Sequential(quantizers[0], layers[0], *([norm()] if normed else []), quantizers[1], layers[1]).eval()
    for quantizer in quantizers:
        quantizer.scalar.fill_(0.05)
    assert_same(
        "onnxruntime_int8", model, torch.randn(SHAPE), share=0.03
    )  # a tie that is broken otherwise moves a step


def test_int8_form_of_a_relu6_ends_at_six_though_its_range_was_stretched() -> None:
    activation = QuantizedActivation(8, "compounding", ceiling=6.0)
    activation.hi.fill_(12.0)
    model = nn.Sequential(activation, quantize_layer(convolution(), 4, 8)).eval()
    assert_same("onnxruntime_int8", model, 20 * torch.rand(SHAPE), share=0.01)


def test_norms_are_paired_with_plain_convolutions_only() -> None:
    assert convolution_norm_pairs(NETWORKS["padding reflect"]()) == [("0", "1")]
    for name in (
        "norm of the batch", "norm by keyword", "a norm of two convolutions", "a convolution of two norms",
        "a hook on a convolution", "transposed",
    ):  # fmt: skip
        assert convolution_norm_pairs(NETWORKS[name]()) == []
