"""The numbers are those of MATLAB's imresize and of the cubic convolution kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from compressbench.data.imresize import downscale, downscale_exact, taps, upscale_bicubic

INTERIOR = {
    2: ([-3, -9, 29, 111, 111, 29, -9, -3], 256),
    3: ([-1, -2, 9, 21, 27, 21, 9, -2, -1], 81),
    4: ([-7, -45, -75, -49, 93, 399, 745, 987, 987, 745, 399, 93, -49, -75, -45, -7], 4096),
}


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_interior_taps_are_those_of_matlab(factor):
    numerators, denominator = INTERIOR[factor]
    weights, _ = taps(120, factor)
    row = weights[15]
    torch.testing.assert_close(row[row != 0] * denominator, torch.tensor(numerators, dtype=torch.float64))


def test_indices_outside_are_reflected_with_the_edge_repeated():
    _, indices = taps(20, 2)
    assert indices[0, :5].tolist() == [3, 2, 1, 0, 0]  # positions -3 -2 -1 0 1 counted from 1
    assert indices[-1, -4:].tolist() == [19, 18, 17, 16]  # positions 21 to 24 of 20


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 4), st.integers(0, 255))
def test_constant_image_stays_constant_and_sizes_round_up(height, width, factor, value):
    small = downscale(torch.full((3, height, width), value, dtype=torch.uint8), factor)
    assert small.shape == (3, -(-height // factor), -(-width // factor))
    assert (small == value).all()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_interior_equals_antialiased_interpolation(factor):
    image = torch.rand(1, 3, 60, 72, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(image, (60 // factor, 72 // factor), mode="bicubic", antialias=True)
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(downscale_exact(image, factor)[inside], expected[inside])


def test_downscale_mirrors_with_its_image():
    image = torch.randint(256, (3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(downscale(image.flip(-1), 2), downscale(image, 2).flip(-1))


def test_downscale_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        downscale(torch.zeros(3, 8, 8), 2)


def test_upscaling_weights_of_the_two_phases():
    impulse = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    impulse[0, 0, 4] = 1
    column = F.interpolate(impulse, (18, 18), mode="bicubic", antialias=True)[0, 0, :, 8]  # what upscale_bicubic rounds
    phase = [-0.0703125, 0.8671875, 0.2265625, -0.0234375]
    # Input 4 meets output 2i + 1 (between i and i + 1) as tap 4 - i + 1, and the even outputs in mirror image.
    torch.testing.assert_close(column[[11, 9, 7, 5]], torch.tensor(phase, dtype=torch.float64))
    torch.testing.assert_close(column[[6, 8, 10, 12]], torch.tensor(phase, dtype=torch.float64))


def test_upscaling_keeps_constants_and_ramps_and_whole_levels():
    assert (upscale_bicubic(torch.full((1, 3, 8, 8), 77.0), 3) == 77).all()
    ramp = (4.0 * torch.arange(20)).expand(1, 1, 20, 20)
    enlarged = upscale_bicubic(ramp, 2)
    assert torch.equal(enlarged[0, 0, 10, 8:32], (2.0 * torch.arange(8, 32) - 1))  # 4 * ((i + 0.5) / 2 - 0.5)
    wild = upscale_bicubic(torch.randint(2, (1, 1, 16, 16)) * 255.0, 2)
    assert torch.equal(wild, wild.round()) and wild.min() >= 0 and wild.max() <= 255


def test_enlarged_borders_are_those_of_matlab():
    columns = (40.0 * torch.arange(6)).expand(1, 1, 6, 6)
    expected = torch.tensor([0.0, 7, 29, 50, 70, 90, 110, 130, 150, 171, 193, 204])  # imresize(columns, 2)
    assert torch.equal(upscale_bicubic(columns, 2), expected.expand(1, 1, 12, 12))
    assert torch.equal(upscale_bicubic(columns.mT, 2), expected.expand(1, 1, 12, 12).mT)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 4))
def test_enlarging_mirrors_the_image_at_its_border(height, width, upscaling):
    image = torch.randint(256, (1, 3, height, width), generator=torch.Generator().manual_seed(height * width)).double()
    tiled = torch.cat([image, image.flip(-1)], -1).repeat(1, 1, 1, 3)
    tiled = torch.cat([tiled, tiled.flip(-2)], -2).repeat(1, 1, 3, 1)  # the period of the mirrored plane, three times
    top, left = 2 * height * upscaling, 2 * width * upscaling
    middle = upscale_bicubic(tiled, upscaling)[..., top : top + height * upscaling, left : left + width * upscaling]
    tolerance = 1 if upscaling == 3 else 0  # thirds are inexact: ties round either way
    assert (upscale_bicubic(image, upscaling) - middle).abs().max() <= tolerance
