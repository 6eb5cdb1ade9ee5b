"""The depthwise kernel against float64, on every build that this machine runs, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.depthwise import DepthwiseConv2d


@st.composite
def layers(draw):
    kernel = draw(st.sampled_from([3, 5]))
    padding = draw(st.integers(0, kernel - 1))
    side = st.integers(max(1, kernel - 2 * padding), 23)
    return {
        "kernel": kernel, "stride": draw(st.integers(1, 2)), "padding": padding, "height": draw(side), "width": draw(side),
        "channels": draw(st.integers(1, 9)), "batch": draw(st.integers(1, 3)), "threads": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**20)),
    }  # fmt: skip


@pytest.mark.parametrize("isa", [i for i in native.Isa if i <= native.best_isa()], ids=lambda isa: isa.name.lower())
@settings(max_examples=150, deadline=None)
@given(layer=layers())
def test_it_convolves_like_float64(isa: native.Isa, layer: dict) -> None:
    rng = torch.Generator().manual_seed(layer["seed"])
    channels, geometry = layer["channels"], {"stride": layer["stride"], "padding": layer["padding"]}
    weight = torch.randn(channels, 1, layer["kernel"], layer["kernel"], generator=rng)
    bias = torch.randn(channels, generator=rng)
    x = torch.randn(layer["batch"], channels, layer["height"], layer["width"], generator=rng)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), groups=channels, **geometry)
    expected = expected.clamp(0, 6)
    convolution = DepthwiseConv2d(weight, bias, x.shape[1:], clip=(0, 6), isa=isa, **geometry)
    before = torch.get_num_threads()
    torch.set_num_threads(layer["threads"])
    try:
        result = convolution(x)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


def test_wrong_weights_and_images_are_refused() -> None:
    for shape in ((4, 2, 3, 3), (5, 1, 3, 3), (4, 1, 3, 1), (4, 1, 1, 1)):
        with pytest.raises(ValueError, match="the depthwise kernel wants"):
            DepthwiseConv2d(torch.randn(shape), None, (4, 8, 8))
    with pytest.raises(ValueError, match="x must"):
        DepthwiseConv2d(torch.randn(4, 1, 3, 3), None, (4, 8, 8))(torch.randn(1, 4, 8, 9))
    with pytest.raises(ValueError, match="does not fit"):
        DepthwiseConv2d(torch.randn(4, 1, 5, 5), None, (4, 3, 8))
