"""Operations on codes against exact arithmetic, on every build that this machine runs, and what they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.block_int8 import fused_multiply_add
from compressbench.kernels.codes import DepthwiseInt8Conv2d, MaxPoolCodes, Quantize
from tests.kernels.test_block_int8 import codes, threads

ISAS = [isa for isa in native.Isa if isa <= native.best_isa()]


@st.composite
def images(draw):
    kernel, stride = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 3))
    side = st.integers(kernel, 20)
    return {
        "channels": draw(st.integers(1, 5)), "height": draw(side), "width": draw(side), "kernel": kernel,
        "stride": stride, "padding": draw(st.integers(0, kernel // 2)), "batch": draw(st.integers(1, 2)),
        "threads": draw(st.integers(1, 3)), "zero_point": draw(st.sampled_from([0, 7, 255])),
        "clip": draw(st.sampled_from([(0, 255), (3, 250)])), "seed": draw(st.integers(0, 2**20)),
    }  # fmt: skip


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name.lower())
@settings(max_examples=150, deadline=None)
@given(image=images())
def test_a_depthwise_convolution_is_exact(isa: native.Isa, image: dict) -> None:
    rng, channels, kernel = torch.Generator().manual_seed(image["seed"]), image["channels"], image["kernel"]
    x = codes((image["batch"], channels, image["height"], image["width"]), rng).to(torch.uint8)
    weight = codes((channels, 1, kernel, kernel), rng, -128, 128).to(torch.int8)
    scale, bias = torch.rand(channels, generator=rng) / 100, 100 * torch.rand(channels, generator=rng)
    padded = F.pad(x.double() - image["zero_point"], (image["padding"],) * 4)
    sums = F.conv2d(padded, weight.double(), stride=image["stride"], groups=channels)
    expected = fused_multiply_add(sums.float(), scale[:, None, None], bias[:, None, None]).round().clamp(*image["clip"])
    layer = DepthwiseInt8Conv2d(
        weight, scale, bias, x.shape[1:], stride=image["stride"], padding=image["padding"],
        zero_point=image["zero_point"], clip=image["clip"], isa=isa,
    )  # fmt: skip
    with threads(image["threads"]):
        assert torch.equal(layer(x), expected.to(torch.uint8))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name.lower())
@settings(max_examples=100, deadline=None)
@given(image=images())
def test_a_maximum_of_codes_is_that_of_their_values(isa: native.Isa, image: dict) -> None:
    rng, geometry = torch.Generator().manual_seed(image["seed"]), (image["kernel"], image["stride"], image["padding"])
    x = codes((image["batch"], image["channels"], image["height"], image["width"]), rng).to(torch.uint8)
    with threads(image["threads"]):
        result = MaxPoolCodes(x.shape[1:], *geometry, isa=isa)(x)
    assert torch.equal(result, F.max_pool2d(x.float(), *geometry).to(torch.uint8))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name.lower())
@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=70), scale=st.floats(2**-10, 1, width=32),
    zero_point=st.integers(0, 255), high=st.sampled_from([255, 127, 15]), count=st.integers(1, 3),
)  # fmt: skip
def test_codes_are_those_of_the_grid(
    isa: native.Isa, values: list[float], scale: float, zero_point: int, high: int, count: int
) -> None:
    zero_point, x = min(zero_point, high), torch.tensor([values])
    expected = ((x / torch.tensor(scale)).round() + zero_point).clamp(0, high).nan_to_num(0.0).to(torch.uint8)
    with threads(count):
        assert torch.equal(Quantize(x.shape[1:], scale, zero_point, high, isa)(x), expected)


def test_halves_go_to_the_even_code() -> None:
    for isa in ISAS:
        halves = torch.tensor([[-0.5, 0.5, 1.5, 2.5, 254.5]])
        assert Quantize((5,), 1.0, 0, 255, isa)(halves).tolist() == [[0, 0, 2, 2, 254]]


def test_what_the_kernels_cannot_compute_is_refused() -> None:
    weight = torch.ones(4, 1, 3, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match="int8"):
        DepthwiseInt8Conv2d(weight.float(), torch.ones(4), None, (4, 5, 5))
    with pytest.raises(ValueError, match="do not fit fp32"):
        DepthwiseInt8Conv2d(torch.ones(4, 1, 23, 23, dtype=torch.int8), torch.ones(4), None, (4, 25, 25))
    with pytest.raises(ValueError, match="no codes"):
        DepthwiseInt8Conv2d(weight, torch.ones(4), None, (4, 5, 5), clip=(0, 256))
    with pytest.raises(ValueError, match="half the kernel"):
        MaxPoolCodes((4, 5, 5), 3, 2, 2)
    with pytest.raises(ValueError, match="x must be uint8"):
        MaxPoolCodes((4, 5, 5), 3, 2, 1)(torch.zeros(1, 4, 5, 5))
