"""Sign convolutions: values, gradients, and one bit a weight."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import accounting, models, storage
from compressbench.layers.binary import (
    EPSILON,
    OneBitConv2d,
    SignConv2d,
    binary_layers,
    one_bit,
    sign_ste,
    standardise,
    standardised_sign,
    ties,
    triangular_slope,
    with_slope,
)
from compressbench.layers.packing import pack_weight, packed_tensors
from tests.contexts.binary import binary_network
from tests.empty_ranges import TENSORS


def test_the_sign_has_no_zero_and_its_gradient_is_clipped() -> None:
    x = torch.tensor([-1.5, -1.0, -0.2, 0.0, 0.2, 1.0, 1.5], requires_grad=True)
    y = sign_ste(x)
    y.backward(torch.arange(1.0, 8.0))
    assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("scaling", ["none", "mean"])
def test_it_convolves_signs_and_packs_them_in_one_bit(scaling: str) -> None:
    layer = SignConv2d.rebuild(nn.Conv2d(5, 6, 3, padding=1), {"scaling": scaling})
    x = torch.randn(2, 5, 7, 7)
    scale = layer.weight.abs().mean((1, 2, 3)) if scaling == "mean" else torch.ones(6)
    plain = F.conv2d(torch.sign(x), torch.sign(layer.weight), padding=1)
    torch.testing.assert_close(layer(x), plain * scale[:, None, None] + layer.bias[:, None, None])
    stored = pack_weight(layer)
    torch.testing.assert_close(stored.weight(), torch.sign(layer.weight) * scale[:, None, None, None])
    assert stored.packed.numel() == accounting.layer_bytes(layer) == -(-5 * 6 * 9 // 8)


def test_it_is_stored_by_its_kind(tmp_path) -> None:
    model = models.build("plain")
    name = next(n for n, m in model.named_modules() if type(m) is nn.Conv2d)
    model.set_submodule(name, SignConv2d.rebuild(model.get_submodule(name), {"scaling": "mean"}))
    storage.save_model(model, tmp_path)
    x = torch.randn(1, 1, 28, 28)
    assert torch.equal(storage.load_model(tmp_path)(x), model.eval()(x))


def plain_standardised(x: Tensor, centred: bool) -> Tensor:
    """The equations, for autograd."""
    mean = x.mean((1, 2, 3), keepdim=True) if centred else 0
    return (x - mean) / (x.var((1, 2, 3), keepdim=True) + EPSILON).sqrt()


@pytest.mark.parametrize("centred", [False, True])
def test_the_gradient_of_a_standardised_sign_is_that_of_its_equations(centred: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    value = standardised_sign(x, centred)
    (own,) = torch.autograd.grad(value, x, upstream)
    scaled = plain_standardised(x, centred)
    (expected,) = torch.autograd.grad(with_slope(scaled, torch.sign(scaled), triangular_slope), x, upstream)
    assert torch.equal(value, torch.sign(scaled))
    torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)


def test_the_triangular_slope_has_its_values() -> None:
    x = torch.tensor([1e-12, 0.25, 0.5, 0.75, 0.999, 1.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([2, 1.5, 1, 0.5, 0.002, 0, 0], dtype=torch.float64)
    for sign in (1, -1):
        torch.testing.assert_close(triangular_slope(sign * x), expected, rtol=1e-9, atol=1e-9)


def test_standardised_filters_have_mean_zero_and_the_deviation_that_epsilon_leaves() -> None:
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64) * torch.logspace(-3, 0, 6).double()[:, None, None, None] + 0.3
    values, variance = standardise(weight, 2 * 2**0.5), weight.var((1, 2, 3))
    torch.testing.assert_close(values.mean((1, 2, 3)), torch.zeros(6).double(), rtol=0, atol=1e-9)
    expected = 2.8284271247461903 * (variance / (variance + EPSILON)).sqrt()
    torch.testing.assert_close(values.std((1, 2, 3)), expected, rtol=1e-9, atol=0)


WEIGHT = torch.tensor([0.5, -1.5, 0.2, -0.1], dtype=torch.float64)
GRADIENT = torch.tensor([1.0, 2, -1, 0.5], dtype=torch.float64)  # by the effective weight


def gradient_of_effective_weight(scaling: str, scale_gradient: str = "exact") -> tuple[Tensor, Tensor]:
    """(scale, gradient by W) of a layer with one filter of four weights."""
    layer = SignConv2d.rebuild(
        nn.Conv2d(4, 1, 1, bias=False).double(), {"scaling": scaling, "scale_gradient": scale_gradient}
    )
    layer.weight.data.copy_(WEIGHT.reshape(1, 4, 1, 1))
    (layer.effective_weight().flatten() * GRADIENT).sum().backward()
    assert layer.weight.grad is not None
    return layer._scale().detach(), layer.weight.grad.flatten()


@pytest.mark.parametrize(
    ("scaling", "scale_gradient", "expected"),
    [
        ("none", "exact", [1, 0, -1, 0.5]),
        ("mean", "exact", [-0.05, 0.625, -1.2, 0.9125]),
        ("mean", "printed", [0.25 + 0.575, 0.5, -0.25 - 0.575, 0.125 + 0.2875]),
        ("mean", "detached", [0.575, 0, -0.575, 0.2875]),
    ],
)
def test_the_gradients_of_signs_and_scales(scaling: str, scale_gradient: str, expected: list[float]) -> None:
    scale, gradient = gradient_of_effective_weight(scaling, scale_gradient)
    assert scale.item() == pytest.approx(0.575 if scaling == "mean" else 1, abs=1e-12)
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_mean_magnitude_is_the_best_scale() -> None:
    errors = {a: ((WEIGHT - a * WEIGHT.sign()) ** 2).sum().item() for a in (0.575, 0.565, 0.585)}
    assert min(errors, key=errors.__getitem__) == 0.575


def test_a_weight_of_zero_is_plus_one() -> None:
    layer = SignConv2d.rebuild(nn.Conv2d(2, 1, 1), {"scaling": "none"})
    nn.init.zeros_(layer.weight)
    assert (layer.weight_signs() == 1).all() and layer.bits().all()


def test_what_is_stored_computes_the_same_and_holds_one_bit_a_weight(tmp_path) -> None:
    model, x = binary_network().eval(), torch.randn(2, 1, 12, 12)
    expected, names = model(x), list(binary_layers(model))
    assert ties(model, x) == 0
    stored = one_bit(model)
    torch.testing.assert_close(stored(x), expected)
    assert all(type(layer) is OneBitConv2d for layer in binary_layers(stored).values()) and len(names) == 4
    storage.save_model(stored, tmp_path)
    loaded = storage.load_model(tmp_path)
    assert torch.equal(loaded(x), stored(x))
    tensors = packed_tensors(loaded)
    for name in names:
        assert tensors[f"{name}.packed"].numel() == -(-loaded.get_submodule(name).weight.numel() // 8)
        assert f"{name}.weight" not in tensors


def test_a_negative_scale_survives_packing() -> None:
    layer = OneBitConv2d.rebuild(nn.Conv2d(3, 4, 3, bias=False), {"scaled": True, "centred": False})
    layer.weight.data.sign_()
    layer.alpha.data.copy_(torch.tensor([0.5, -0.25, 0.0, 2.0]))
    torch.testing.assert_close(pack_weight(layer).weight(), layer.effective_weight())


@pytest.mark.parametrize("magnitude", [0.0, 1e-36, 1e-30, 1.0])
def test_filters_of_any_magnitude_pack_beside_others(magnitude: float) -> None:
    latent = nn.Conv2d(3, 4, 3, bias=False)
    latent.weight.data[1] *= magnitude
    one = OneBitConv2d.rebuild(nn.Conv2d(3, 4, 3, bias=False), {"scaled": True, "centred": False})
    one.weight.data = torch.where(one.weight.data > 0, 1.0, -1.0)
    one.alpha.data[1] = magnitude
    for layer in (SignConv2d.rebuild(latent, {"scaling": "mean"}), one):
        assert torch.equal(pack_weight(layer).weight(), layer.effective_weight())


def test_activations_at_their_threshold_are_counted() -> None:
    model = binary_network("siman")  # its stem ends in a ReLU: a sign without mean removal meets exact zeros
    x = torch.randn(1, 1, 12, 12)
    zeros = int((model.eval().stem(x) == 0).sum())
    assert ties(model, x) >= zeros > 0


@pytest.mark.parametrize("centred", [False, True])
def test_standardised_signs_of_constant_and_of_single_values_have_finite_gradients(centred: bool) -> None:
    for x in (*TENSORS.values(), torch.randn(3, 1, 1, 1)):
        x = x.clone().requires_grad_()
        standardised_sign(x, centred).sum().backward()
        assert x.grad.isfinite().all()
