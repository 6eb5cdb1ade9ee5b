"""Tensors without a range: every quantizer, of weights and of activations, gives the constant, with finite gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressbench.data_free.closed_forms import uniform
from compressbench.errors import UserError
from compressbench.layers import all_layers  # noqa: F401  (registers every kind)
from compressbench.layers.binary import OneBitConv2d, SignConv2d, standardised_sign
from compressbench.layers.bounds import BoundedActivation, dual_bounds_quantize, integer_codes, symmetric_bound_quantize
from compressbench.layers.gates import quantize_gate_input
from compressbench.layers.gates import ternary as gate_weight
from compressbench.layers.learned_steps import DorefaConv2d, LearnedStepActivation, LearnedStepConv2d, PactActivation
from compressbench.layers.observed import ObservedActivation, observe
from compressbench.layers.packing import pack_weight
from compressbench.layers.quantized import QuantizedActivation, quantize_layer
from compressbench.layers.quantizers import make_grid
from compressbench.layers.ranged import RangedConv2d
from compressbench.layers.registry import LAYER_KINDS
from compressbench.quantization.latent_weights import best_share, laplace_quantile
from compressbench.quantization.post_training import Clipping, InputRange, PostTrainingConfig, weight_range
from methods.df_mpc.compensation import ternary
from methods.recu.layer import RectifiedClampConv2d
from methods.siman.layer import MagnitudeConv2d

BITS = 4
SHAPE = (4, 25, 2, 2)


def nearly_zero() -> Tensor:
    """99 % zeros, the rest normal; the last two filters, or images, are all zero."""
    values = torch.zeros(400)
    values[[3, 77, 120, 190]] = torch.tensor([0.5, -1.5, 2.0, -0.25])
    return values.reshape(SHAPE)


TENSORS = {
    "all zero": torch.zeros(SHAPE),
    "all 0.3": torch.full(SHAPE, 0.3),
    "all -0.3": torch.full(SHAPE, -0.3),
    "all 1e-30": torch.full(SHAPE, 1e-30),
    "99 % zero": nearly_zero(),
}
Layer = Callable[[nn.Conv2d], nn.Module]


def rebuilt(cls: type, **config: object) -> Layer:
    return lambda layer: cls.rebuild(layer, config)


def post_training(clipping: Clipping, scheme: str, per_channel: bool = True) -> Layer:
    def build(layer: nn.Conv2d) -> nn.Module:
        config = PostTrainingConfig(weight_scheme=scheme, per_channel=per_channel)
        quantized = quantize_layer(layer, BITS, BITS, scheme, per_channel)
        grid = make_grid(*weight_range(layer.weight.detach(), BITS, config, clipping), BITS, scheme)
        quantized.weight_scale.copy_(grid.scale)
        quantized.weight_zero_point.copy_(grid.zero_point)
        return quantized

    return build


def one_bit(layer: nn.Conv2d) -> nn.Module:
    stored = OneBitConv2d.rebuild(layer, {"scaled": True, "centred": False})
    stored.alpha.data.copy_(layer.weight.detach().abs().mean((1, 2, 3)))
    layer.weight.data = torch.where(layer.weight.data >= 0, 1.0, -1.0)
    return stored


WIDTHS = {"weight_bits": BITS, "input_bits": BITS}
# What keeps the value of a constant weight, up to rounding.
RANGED: dict[str, Layer] = {
    "span": lambda layer: quantize_layer(layer, BITS, BITS),
    "percentile": rebuilt(RangedConv2d, **WIDTHS, weight_range="percentile", percentile=99.0),
    "minmax": rebuilt(RangedConv2d, **WIDTHS, weight_range="minmax", percentile=99.0),
    "symmetric": rebuilt(RangedConv2d, **WIDTHS, weight_range="symmetric", percentile=99.0),
    "post-training minmax": post_training("minmax", "symmetric"),
    "post-training asymmetric": post_training("minmax", "asymmetric", per_channel=False),
    "post-training mse": post_training("mse", "asymmetric"),
    "post-training percentile": post_training("percentile", "symmetric"),
}
# What has a form of its own: a trained step, tanh, signs.
OTHER: dict[str, Layer] = {
    "lsq": rebuilt(LearnedStepConv2d, **WIDTHS),
    "dorefa": rebuilt(DorefaConv2d, **WIDTHS, rescale=False),
    "dorefa rescaled": rebuilt(DorefaConv2d, **WIDTHS, rescale=True),
    "bnn": rebuilt(SignConv2d, scaling="none"),
    "xnor": rebuilt(SignConv2d, scaling="mean"),
    "xnor printed": rebuilt(SignConv2d, scaling="mean", scale_gradient="printed"),
    "recu": rebuilt(RectifiedClampConv2d),
    "siman": rebuilt(MagnitudeConv2d),
    "one bit": one_bit,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "dual bounds": lambda: BoundedActivation(BITS),
    "gated bounds": lambda: BoundedActivation(BITS, gate_channels=25),
    "symmetric bound": lambda: BoundedActivation(BITS, "symmetric"),
    "lsq": lambda: LearnedStepActivation(BITS),
    "pact": lambda: PactActivation(BITS),
    "pact from the largest": lambda: PactActivation(BITS, start_at=None),
    "observed symmetric": lambda: ObservedActivation(BITS, "symmetric"),
    "observed asymmetric": lambda: ObservedActivation(BITS, "asymmetric"),
    "tracked": lambda: QuantizedActivation(BITS),
    "tracked relu6": lambda: QuantizedActivation(BITS, "compounding", 6.0),
}


def convolution(name: str) -> nn.Conv2d:
    layer = nn.Conv2d(25, 4, 2)
    layer.weight.data = TENSORS[name].clone()
    return layer


def test_every_stored_kind_of_quantizer_is_asked() -> None:
    tried = {type(build(nn.Conv2d(25, 4, 2))) for build in (RANGED | OTHER).values()}
    tried |= {type(build()) for build in ACTIVATIONS.values()}
    kinds = {cls for cls in LAYER_KINDS.values() if hasattr(cls, "weight_step") or hasattr(cls, "grid")}
    assert kinds - tried == {type(quantize_layer(nn.Linear(2, 2), BITS, BITS))}, (
        "which shares its code with QuantConv2d"
    )


@pytest.mark.parametrize("values", TENSORS)
@pytest.mark.parametrize("quantizer", RANGED | OTHER)
def test_weights_without_a_range_stay_finite_and_get_finite_gradients(quantizer: str, values: str) -> None:
    torch.manual_seed(0)
    layer = (RANGED | OTHER)[quantizer](convolution(values)).train()
    x = torch.randn(2, 25, 5, 5).requires_grad_()
    output = layer(x)
    output.square().sum().backward()
    assert output.isfinite().all()
    assert quantizer == "one bit" or x.grad.isfinite().all()  # the stored form does not train
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    effective = layer.effective_weight().detach()
    torch.testing.assert_close(pack_weight(layer).weight(), effective)
    if values == "all zero" and quantizer not in ("bnn", "recu"):  # whose scale is no magnitude
        assert not effective.any()
    if values.startswith("all"):
        assert len(effective.unique()) == 1
    if values in ("all 0.3", "all -0.3") and quantizer in RANGED:
        torch.testing.assert_close(effective, TENSORS[values])
    if values in ("all 0.3", "all -0.3") and quantizer == "dorefa rescaled":
        torch.testing.assert_close(effective, TENSORS[values].tanh())


@pytest.mark.parametrize("values", TENSORS)
@pytest.mark.parametrize("quantizer", ACTIVATIONS)
def test_activations_without_a_range_stay_finite_and_get_finite_gradients(quantizer: str, values: str) -> None:
    layer, x = ACTIVATIONS[quantizer]().train(), TENSORS[values].clone()
    model = nn.Sequential(layer)
    with torch.no_grad():
        observe(model, True)
        model(x)
        observe(model, False)
        if isinstance(layer, QuantizedActivation):
            layer.tracking = True
            for _ in range(300):
                layer(x)
            layer.tracking = False
    x.requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    assert (y[x == 0] == 0).all()
    grid = layer.eval().grid()
    assert grid is None or (grid.scale.isfinite() and grid.scale > 0)
    if not values.startswith("all"):
        return
    assert len(y.unique()) == 1
    expected = x.detach().clamp_min(0) if isinstance(layer, QuantizedActivation) else x.detach()
    if quantizer not in ("lsq", "pact", "gated bounds"):  # whose step, clip point and gate are not the input's
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("quantizer", ["dual bounds", "symmetric bound", "pact from the largest", "lsq"])
def test_a_quantizer_that_started_from_zeros_learns_from_what_comes_later(quantizer: str) -> None:
    layer = ACTIVATIONS[quantizer]().train()
    layer(torch.zeros(SHAPE))
    layer(torch.rand(SHAPE) + 0.1).sum().backward()
    moved = [p for name, p in layer.named_parameters() if name in ("upper", "scalar")]
    assert all(p.grad.abs() > 0 for p in moved)


def test_an_input_of_nan_is_refused_by_what_it_is() -> None:
    with pytest.raises(UserError, match=r"cannot start.*nan"):
        BoundedActivation(BITS)(torch.full(SHAPE, torch.nan))


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-30, 1e-40, 1e5])
def test_equal_bounds_give_their_value(value: float) -> None:
    bound = torch.tensor(value, requires_grad=True)
    lower = torch.tensor(value, requires_grad=True)
    x = torch.tensor([-1e6, value, 1e6], requires_grad=True)
    y = dual_bounds_quantize(x, bound, lower, BITS)
    torch.testing.assert_close(y, torch.full((3,), value), atol=1e-38, rtol=1e-6)
    y.sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, bound, lower))
    codes = integer_codes(x.detach(), bound.detach(), lower.detach(), BITS)
    torch.testing.assert_close((codes.q + codes.z) / codes.s, y.detach(), atol=1e-38, rtol=1e-6)


def test_a_symmetric_bound_of_zero_gives_zeros() -> None:
    x, bound = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True), torch.tensor(0.0, requires_grad=True)
    y = symmetric_bound_quantize(x, bound, BITS)
    y.sum().backward()
    assert y.tolist() == [0.0, 0.0, 0.0]
    assert x.grad.isfinite().all() and bound.grad.isfinite()


@pytest.mark.parametrize("values", TENSORS)
def test_closed_forms_and_gates_keep_what_has_no_range(values: str) -> None:
    x = TENSORS[values]
    for per_filter in (False, True):
        for rounded in (uniform(x, BITS, per_filter), ternary(x, per_filter)):
            assert rounded.weight.isfinite().all() and (rounded.step > 0).all()
            if values != "99 % zero":
                torch.testing.assert_close(rounded.weight, x)
    for quantized in (gate_weight(x), quantize_gate_input(x), quantize_gate_input(x, per_sample=True)):
        assert quantized.isfinite().all()
        assert not quantized[x == 0].any()


@pytest.mark.parametrize("clipping", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("values", TENSORS)
def test_calibration_on_what_has_no_range_gives_a_grid_that_holds_it(values: str, scheme: str, clipping: str) -> None:
    x, seen = TENSORS[values], InputRange(99.99)
    seen.update(x, clipping, scheme)
    grid = make_grid(*seen.choose(clipping, BITS, scheme), BITS, scheme, signed=bool(x.min() < 0))
    assert grid.scale > 0 and grid.zero_point.isfinite()
    if values in ("all zero", "all 0.3", "all -0.3"):
        torch.testing.assert_close(grid.fake_quantize(x), x)


@pytest.mark.parametrize("centred", [False, True])
def test_standardised_signs_of_constant_and_of_single_values_have_finite_gradients(centred: bool) -> None:
    for x in (*TENSORS.values(), torch.randn(3, 1, 1, 1)):
        x = x.clone().requires_grad_()
        standardised_sign(x, centred).sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("build", [rebuilt(RectifiedClampConv2d), rebuilt(MagnitudeConv2d)], ids=["recu", "siman"])
def test_filters_of_one_weight_have_no_deviation(build: Layer) -> None:
    layer = build(nn.Conv2d(1, 3, 1)).train()
    y = layer(torch.randn(2, 1, 4, 4))
    y.sum().backward()
    assert y.isfinite().all() and layer.weight.grad.isfinite().all()


def test_laws_of_dead_layers() -> None:
    assert laplace_quantile(torch.tensor(0.0), 1.0) == torch.inf
    assert laplace_quantile(torch.tensor(0.0), 0.9) == 0
    assert 0 < best_share(torch.zeros(10)) <= 1
