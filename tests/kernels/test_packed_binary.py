"""The binary kernel against float convolution of signs: equal integers, in both encodings, on every build."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.packed_binary import PackedBinaryConv2d, Signs, pack_bits, thresholds

ISAS = [isa for isa in native.Isa if isa <= native.best_isa("packed_binary")]


@st.composite
def layers(draw):
    kernel = draw(st.sampled_from([1, 3]))
    padding = draw(st.integers(0, kernel - 1))
    side = st.integers(max(1, kernel - 2 * padding), 17)
    return {
        "kernel": kernel, "padding": padding, "stride": draw(st.integers(1, 2)), "height": draw(side),
        "width": draw(side), "c_in": draw(st.sampled_from([1, 3, 16, 63, 64, 65, 130])), "c_out": draw(st.integers(1, 37)),
        "batch": draw(st.integers(1, 2)), "threads": draw(st.integers(1, 2)), "seed": draw(st.integers(0, 2**20)),
    }  # fmt: skip


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name.lower())
@settings(max_examples=150, deadline=None)
@given(layer=layers())
def test_both_encodings_equal_the_float_convolution_exactly(isa: native.Isa, layer: dict) -> None:
    rng = torch.Generator().manual_seed(layer["seed"])
    bits = torch.rand(layer["c_out"], layer["c_in"], layer["kernel"], layer["kernel"], generator=rng) > 0.5
    x = torch.randn(layer["batch"], layer["c_in"], layer["height"], layer["width"], generator=rng)
    signs = torch.where(x > 0, 1.0, -1.0)
    geometry = {"stride": layer["stride"], "padding": layer["padding"]}
    before = torch.get_num_threads()
    torch.set_num_threads(layer["threads"])
    try:
        for encoding, weight in (("signs", torch.where(bits, 1.0, -1.0)), ("ones", bits.float())):
            expected = F.conv2d(signs, weight, **geometry)
            convolution = PackedBinaryConv2d(bits, None, None, x.shape[2:], encoding=encoding, isa=isa, **geometry)
            assert torch.equal(convolution(x), expected)
    finally:
        torch.set_num_threads(before)


def words_of(values: torch.Tensor) -> list[int]:
    """The signs of [batch, channels, height, width] as the kernel keeps them."""
    return pack_bits((values > 0).flatten(2).transpose(1, 2)).transpose(1, 2).flatten().tolist()


def kept(signs: Signs, count: int) -> list[int]:
    return signs._words[:count].tolist()


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name.lower())
@settings(max_examples=100, deadline=None)
@given(layer=layers(), added=st.booleans(), sloped=st.booleans(), before=st.sampled_from(["nothing", "mean", "norm"]))
def test_the_fused_step_is_convolution_sum_activation_and_the_signs_of_it(isa, layer, added, sloped, before) -> None:
    rng = torch.Generator().manual_seed(layer["seed"])
    channels = layer["c_out"]
    bits = torch.rand(channels, layer["c_in"], layer["kernel"], layer["kernel"], generator=rng) > 0.5
    x = torch.randn(layer["batch"], layer["c_in"], layer["height"], layer["width"], generator=rng)
    scale, bias, slope = (torch.randn(channels, generator=rng) for _ in range(3))
    norm = tuple(torch.randn(layer["c_in"], generator=rng) for _ in range(2))
    geometry = {"stride": layer["stride"], "padding": layer["padding"]}
    read = {"nothing": x, "mean": x - x.mean((1, 2, 3), keepdim=True)}
    read["norm"] = x * norm[0][:, None, None] + norm[1][:, None, None]
    signs = torch.where(read[before] > 0, 1.0, -1.0)
    expected = F.conv2d(signs, torch.where(bits, 1.0, -1.0), **geometry) * scale[:, None, None] + bias[:, None, None]
    residual = torch.randn(expected.shape, generator=rng) if added else None
    expected = expected if residual is None else expected + residual
    expected = torch.clamp(F.prelu(expected, slope) if sloped else expected, -1, 1)
    around = {
        "centred": before == "mean",
        "norm": norm if before == "norm" else None,
        "slope": slope if sloped else None,
    }
    own = PackedBinaryConv2d(bits, scale, bias, x.shape[2:], clip=(-1, 1), isa=isa, **around, **geometry)
    own.signs = Signs(channels, expected[0, 0].numel())
    y = own(x, residual)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    if isa is not native.Isa.TORCH:
        assert kept(own.signs, len(words_of(y))) == words_of(y)


numbers = st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0, 0.5, -1.5, 1e-38, 3e38, -3e38, math.inf, -math.inf])


@settings(max_examples=300, deadline=None)
@given(scale=st.floats(-8, 8, width=32) | st.just(0.0), bias=numbers, count=st.integers(-300, 300))
def test_a_threshold_is_the_sign_of_real_numbers(scale: float, bias: float, count: int) -> None:
    """Also of a negative scale, of none, and where the sum is exactly 0, which is not positive."""
    (limit,), (flip,) = (t.tolist() for t in thresholds(torch.tensor([scale]), torch.tensor([bias]), 300))
    for e in {count, *(min(max(limit + near, -300), 300) for near in (-1, 0, 1))}:
        positive = bias > 0 if math.isinf(bias) else Fraction(scale) * e + Fraction(bias) > 0
        assert ((e > limit) != flip) == positive


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa is not native.Isa.TORCH], ids=lambda isa: isa.name.lower())
@settings(max_examples=100, deadline=None)
@given(layer=layers())
def test_signs_without_values_are_those_of_the_exact_sums(isa: native.Isa, layer: dict) -> None:
    rng = torch.Generator().manual_seed(layer["seed"])
    channels = layer["c_out"]
    bits = torch.rand(channels, layer["c_in"], layer["kernel"], layer["kernel"], generator=rng) > 0.5
    x = torch.randn(layer["batch"], layer["c_in"], layer["height"], layer["width"], generator=rng)
    scale, bias = (torch.randint(-3, 4, (channels,), generator=rng).float() / 4 for _ in range(2))  # ties are common
    geometry = {"stride": layer["stride"], "padding": layer["padding"]}
    exact = F.conv2d(torch.where(x > 0, 1.0, -1.0), torch.where(bits, 1.0, -1.0), **geometry)
    own = PackedBinaryConv2d(bits, scale, bias, x.shape[2:], clip=(-1, 1), isa=isa, **geometry)
    own.signs, own.writes = Signs(channels, exact[0, 0].numel()), False
    out = torch.full(exact.shape, 7.0)
    native.program([own.step(x, out)])()
    expected = words_of(exact * scale[:, None, None] + bias[:, None, None])
    assert kept(own.signs, len(expected)) == expected
    assert torch.equal(out, torch.full_like(out, 7.0))


def test_the_encodings_differ_by_the_sum_of_the_activations() -> None:
    """dot(A, 2B - 1) = 2 dot(A, B) - sum(A), one number per position (SiMaN)."""
    bits = torch.rand(24, 70, 3, 3) > 0.5
    x = torch.randn(1, 70, 9, 9)
    signs, ones = (
        PackedBinaryConv2d(bits, None, None, (9, 9), padding=1, encoding=encoding)(x) for encoding in ("signs", "ones")
    )
    activations = torch.where(x > 0, 1.0, -1.0).sum(1, keepdim=True)
    total = F.conv2d(activations, torch.ones(1, 1, 3, 3), padding=1)
    assert torch.equal(signs, 2 * ones - total)


@pytest.mark.parametrize("centred", [False, True])
def test_two_threads_compute_the_same_bits(centred: bool) -> None:
    """Of a layer that is large enough for them."""
    bits, x = torch.rand(70, 130, 3, 3) > 0.5, torch.randn(2, 130, 21, 21)
    own = PackedBinaryConv2d(bits, torch.rand(70), torch.randn(70), (21, 21), padding=1, centred=centred)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(own(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_scale_and_bias_are_per_channel() -> None:
    bits, scale, bias = torch.rand(5, 64, 3, 3) > 0.5, torch.rand(5), torch.randn(5)
    x = torch.randn(2, 64, 6, 7)
    plain = PackedBinaryConv2d(bits, None, None, (6, 7), padding=1)(x)
    expected = plain * scale[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(PackedBinaryConv2d(bits, scale, bias, (6, 7), padding=1)(x), expected)


def test_bits_are_packed_64_to_a_word() -> None:
    bits = torch.zeros(1, 70, dtype=torch.bool)
    bits[0, [0, 5, 63, 64]] = True
    words = pack_bits(bits)
    assert words.tolist() == [[1 + 32 - 2**63, 1]]
    assert PackedBinaryConv2d(torch.ones(16, 64, 3, 3) > 0, None, None, (4, 4), padding=1).stored_bytes == 16 * 9 * 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"bits": torch.zeros(4, 8, 3, 3)}, "bits must be bool"),
        ({"scale": torch.ones(3)}, "scale must have 4"),
        ({"padding": 3}, "no convolution of ours"),
        ({"input_size": (2, 2)}, "does not fit"),
    ],
)
def test_wrong_layers_are_refused(arguments: dict, sentence: str) -> None:
    good = {"bits": torch.zeros(4, 8, 3, 3) > 0, "scale": None, "bias": None, "input_size": (5, 5)}
    with pytest.raises(ValueError, match=sentence):
        PackedBinaryConv2d(**(good | arguments))


def test_wrong_images_are_refused() -> None:
    convolution = PackedBinaryConv2d(torch.zeros(4, 8, 3, 3) > 0, None, None, (5, 5))
    for bad in (torch.randn(1, 5, 5, 8), torch.randn(1, 8, 5, 5).double(), torch.randn(1, 8, 5, 10)[..., ::2]):
        with pytest.raises(ValueError, match="x must"):
            convolution(bad)
