"""The int8 kernel against exact integer arithmetic, on every build that this machine runs, and what it refuses."""

from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.block_int8 import GROUPS, BlockInt8Conv2d, fused_multiply_add
from compressbench.kernels.block_sparse import BLOCK_SIZES
from compressbench.pruning.blocks import BlockSparse, encode_bsr, random_block_mask

SIDES = st.one_of(st.sampled_from([7, 14, 16]), st.integers(1, 19))


def runnable() -> list[native.Isa]:
    return [isa for isa in native.Isa if isa <= native.best_isa("block_int8")]


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@st.composite
def layers(draw):
    """Sizes with odd ends, strides, empty rows, images smaller than a vector, and images of 49 and 196 positions."""
    n = draw(st.sampled_from(BLOCK_SIZES))
    kernel, stride = draw(st.sampled_from([1, 3, 7])), draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel - 1))
    smallest = max(1, kernel - 2 * padding)
    return {
        "n": n, "c_out": n * draw(st.integers(1, 3)), "c_in": draw(st.integers(1, 19)), "kernel": kernel,
        "stride": stride, "padding": padding, "height": max(smallest, draw(SIDES)), "width": max(smallest, draw(SIDES)),
        "batch": draw(st.integers(1, 3)), "sparsity": draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        "threads": draw(st.integers(1, 3)), "zero_point": draw(st.sampled_from([0, 1, 128, 255])),
        "clip": draw(st.sampled_from([(0, 255), (3, 250), (128, 128)])),
        "residual": draw(st.sampled_from([None, torch.uint8, torch.float32])),
        "dtype": draw(st.sampled_from([torch.uint8, torch.float32])), "group": draw(st.sampled_from([None, 1, 3])),
        "seed": draw(st.integers(0, 2**20)),
    }  # fmt: skip


def codes(shape, rng: torch.Generator, low: int = 0, high: int = 256) -> Tensor:
    return torch.randint(low, high, shape, generator=rng)


@pytest.mark.parametrize("isa", runnable(), ids=lambda isa: isa.name.lower())
@settings(max_examples=150, deadline=None)
@given(layer=layers())
def test_every_bit_is_that_of_exact_sums(isa: native.Isa, layer: dict) -> None:
    rng = torch.Generator().manual_seed(layer["seed"])
    c_out, n, kernel = layer["c_out"], layer["n"], layer["kernel"]
    weight = codes((c_out, layer["c_in"], kernel, kernel), rng, -128, 128).to(torch.int8)
    mask = random_block_mask(weight, n, layer["sparsity"], rng)
    x = codes((layer["batch"], layer["c_in"], layer["height"], layer["width"]), rng).to(torch.uint8)
    scale, bias = torch.rand(c_out, generator=rng) / 2000, 100 * torch.rand(c_out, generator=rng)
    step = float(torch.rand((), generator=rng))
    # float64 holds the sums exactly
    sums = F.conv2d(
        F.pad(x.double() - layer["zero_point"], (layer["padding"],) * 4),
        (weight * mask).double(),
        None,
        layer["stride"],
    )
    expected = fused_multiply_add(sums.float(), scale[:, None, None], bias[:, None, None])
    residual = codes(sums.shape, rng).to(layer["residual"]) if layer["residual"] else None
    if residual is not None:
        expected = fused_multiply_add(residual.float(), torch.tensor(step), expected)
    expected = (expected.round() if layer["dtype"] is torch.uint8 else expected).clamp(*layer["clip"])
    convolution = BlockInt8Conv2d(
        encode_bsr(weight, mask, n), scale, bias, x.shape[1:], kernel=kernel, stride=layer["stride"],
        padding=layer["padding"], zero_point=layer["zero_point"], clip=layer["clip"], residual_scale=step,
        residual_dtype=layer["residual"] or torch.uint8,
        dtype=layer["dtype"], isa=isa, group=layer["group"],
    )  # fmt: skip
    with threads(layer["threads"]):
        result = convolution(x, residual)
    assert result.dtype is layer["dtype"]
    assert torch.equal(result, expected.to(layer["dtype"]))


@settings(max_examples=300, deadline=None)
@given(*[st.floats(-(2.0**31), 2.0**31, width=32)] * 3)
def test_a_multiply_add_is_rounded_once(a: float, b: float, c: float) -> None:
    result = fused_multiply_add(*(torch.tensor(value) for value in (a, b, c))).item()
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    neighbours = [float(np.nextafter(np.float32(result), np.float32(to))) for to in (-np.inf, np.inf)]
    error = abs(Fraction(result) - exact)
    assert all(error <= abs(Fraction(other) - exact) for other in neighbours)


def test_what_float64_would_round_to_a_tie_is_no_tie() -> None:
    """2^24 + 2 + (1 - 2^-30) is nearest to 2^24 + 2; rounded to float64, it lies in the middle, and would go up to the even."""
    result = fused_multiply_add(torch.tensor(1 + 2.0**-15), torch.tensor(1 - 2.0**-15), torch.tensor(2.0**24 + 2))
    assert result == 2**24 + 2


def test_rounding_is_half_to_even() -> None:
    weight = torch.ones(1, 1, 1, 1, dtype=torch.int8)
    blocks = encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), 1)
    x = torch.arange(8, dtype=torch.uint8).reshape(1, 1, 1, 8)
    for isa in runnable():
        halved = BlockInt8Conv2d(blocks, torch.tensor([0.5]), None, (1, 1, 8), isa=isa)(x)
        assert halved.flatten().tolist() == [0, 0, 1, 2, 2, 2, 3, 4]


def encoded(n: int = 4) -> BlockSparse:
    weight = torch.arange(48, dtype=torch.int8).reshape(8, 6, 1, 1)
    return encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), n)


def test_a_trial_changes_the_groups_and_no_result() -> None:
    x = torch.randint(256, (1, 6, 20, 20), dtype=torch.uint8)
    convolution = BlockInt8Conv2d(encoded(), torch.full((8,), 0.01), None, (6, 20, 20), group=3)
    before = convolution(x)
    assert torch.equal(convolution.tune()(x), before)
    if convolution.isa is not native.Isa.TORCH:
        assert convolution._layer.group in GROUPS


def test_wrong_tensors_are_refused_before_the_kernel_sees_them() -> None:
    convolution = BlockInt8Conv2d(encoded(), torch.ones(8), None, (6, 5, 5))
    good = torch.zeros(1, 6, 5, 5, dtype=torch.uint8)
    for bad in (good[:, :5], good.float(), good.to(torch.int8), good.expand(2, -1, -1, -1)):
        with pytest.raises(ValueError, match="x must"):
            convolution(bad)
    with pytest.raises(ValueError, match="out must"):
        convolution(good, out=torch.empty(1, 8, 5, 5))
    with pytest.raises(ValueError, match="residual must be uint8"):
        convolution(good, residual=torch.empty(1, 8, 5, 5))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"zero_point": 256}, "zero point"),
        ({"clip": (0, 256)}, "clipped to integers"),
        ({"clip": (0.5, 255)}, "clipped to integers"),
        ({"dtype": torch.int8}, "uint8 or float32"),
        ({"scale": torch.full((8,), 1e6)}, "do not fit 32 bits"),
        ({"scale": torch.full((8,), float("nan"))}, "do not fit 32 bits"),
        ({"blocks": BlockSparse(torch.randn(12, 4), encoded().indices, encoded().indptr, (8, 6))}, "data must be int8"),
    ],
)
def test_what_the_kernel_cannot_compute_is_refused(change: dict, sentence: str) -> None:
    good = {"blocks": encoded(), "scale": torch.ones(8), "bias": None, "input_size": (6, 5, 5)}
    with pytest.raises(ValueError, match=sentence):
        BlockInt8Conv2d(**(good | change))
