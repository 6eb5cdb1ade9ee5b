"""Random boxes: geometry, area, gradients."""

import torch

from compressbench.data_free.boxes import Boxes, random_boxes, resize_boxes


def box(top, left, height, width, flip=False):
    return Boxes(*(torch.tensor([v]) for v in (top, left, height, width)), torch.tensor([flip]))


def test_full_box_without_flip_is_the_identity():
    x = torch.randn(1, 3, 28, 28)
    assert torch.equal(resize_boxes(x, box(0, 0, 28, 28)), x)
    assert torch.equal(resize_boxes(x, box(0, 0, 28, 28, True)), x.flip(3))


def test_box_equals_cropping_and_interpolating():
    x = torch.randn(1, 3, 32, 32)
    expected = torch.nn.functional.interpolate(x[:, :, 3:24, 5:30], size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_boxes(x, box(3, 5, 21, 25)), expected, atol=1e-5, rtol=1e-5)


def test_pixels_outside_the_box_have_exactly_zero_gradient():
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    resize_boxes(x, box(3, 5, 21, 25, True)).square().sum().backward()
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[3:24, 5:30] = True
    assert (x.grad[0, 0][~inside] == 0).all()
    assert (x.grad[0, 0][inside] != 0).all()


def test_area_fraction_of_half_to_one():
    boxes = random_boxes(20_000, 32, 32, 0.5, torch.Generator().manual_seed(0))
    fraction = boxes.height * boxes.width / 32**2
    assert fraction.min() >= 0.48 and fraction.max() <= 1
    assert abs(fraction.mean() - 0.703) < 0.01
    assert abs(boxes.flip.float().mean() - 0.5) < 0.02
    assert (boxes.top >= 0).all() and (boxes.top + boxes.height <= 32).all()
    assert (boxes.left >= 0).all() and (boxes.left + boxes.width <= 32).all()


def test_smallest_one_falls_back_to_the_whole_square():
    boxes = random_boxes(200, 8, 8, 1.0, torch.Generator().manual_seed(0))
    assert (boxes.height * boxes.width >= 56).all()
