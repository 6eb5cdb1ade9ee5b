"""The binary kernel against float convolution of signs: equal integers, in both encodings, on every build."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.packed_binary import PackedBinaryConv2d, pack_bits

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
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    before = torch.get_num_threads()
    torch.set_num_threads(layer["threads"])
    try:
        for encoding, weight in (("signs", torch.where(bits, 1.0, -1.0)), ("ones", bits.float())):
            expected = F.conv2d(signs, weight, **geometry).permute(0, 2, 3, 1)
            convolution = PackedBinaryConv2d(bits, None, None, x.shape[2:], encoding=encoding, isa=isa, **geometry)
            assert torch.equal(convolution(nhwc), expected)
    finally:
        torch.set_num_threads(before)


def test_the_encodings_differ_by_the_sum_of_the_activations() -> None:
    """dot(A, 2B - 1) = 2 dot(A, B) - sum(A), one number per position (SiMaN)."""
    bits = torch.rand(24, 70, 3, 3) > 0.5
    x = torch.randn(1, 9, 9, 70)
    signs, ones = (
        PackedBinaryConv2d(bits, None, None, (9, 9), padding=1, encoding=encoding)(x) for encoding in ("signs", "ones")
    )
    activations = torch.where(x > 0, 1.0, -1.0).sum(-1)[:, None]
    total = F.conv2d(activations, torch.ones(1, 1, 3, 3), padding=1)[:, 0, :, :, None]
    assert torch.equal(signs, 2 * ones - total)


def test_scale_and_bias_are_per_channel() -> None:
    bits, scale, bias = torch.rand(5, 64, 3, 3) > 0.5, torch.rand(5), torch.randn(5)
    x = torch.randn(2, 6, 7, 64)
    plain = PackedBinaryConv2d(bits, None, None, (6, 7), padding=1)(x)
    torch.testing.assert_close(PackedBinaryConv2d(bits, scale, bias, (6, 7), padding=1)(x), plain * scale + bias)


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
    for bad in (torch.randn(1, 8, 5, 5), torch.randn(1, 5, 5, 8).double(), torch.randn(1, 5, 5, 16)[..., ::2]):
        with pytest.raises(ValueError, match="x must"):
            convolution(bad)
