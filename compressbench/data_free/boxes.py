"""Random boxes, resized to the full image and flipped, for a whole batch at once and differentiable."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

ATTEMPTS = 10
ASPECT = (3 / 4, 4 / 3)


class Boxes(NamedTuple):
    """One box per image: int64 [N] each (pixels), and whether to flip: bool [N]."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


def random_boxes(count: int, height: int, width: int, smallest: float, generator: torch.Generator) -> Boxes:
    """Area fraction U(smallest, 1), aspect ratio log-uniform in [3/4, 4/3], uniform position, flip with probability 1/2.

    The first of ten draws that fits counts, else the largest central box within the aspect range.
    """
    area = height * width * torch.empty(ATTEMPTS, count).uniform_(smallest, 1, generator=generator)
    ratio = torch.empty(ATTEMPTS, count).uniform_(math.log(ASPECT[0]), math.log(ASPECT[1]), generator=generator).exp()
    w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.int().argmax(0, keepdim=True)  # 0 where none fits
    any_fits = fits.any(0)
    aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
    central_w, central_h = min(width, round(height * aspect)), min(height, round(width / aspect))
    w = torch.where(any_fits, w.gather(0, first)[0], central_w)
    h = torch.where(any_fits, h.gather(0, first)[0], central_h)
    u = torch.rand(3, count, generator=generator)
    top = torch.where(any_fits, (u[0] * (height - h + 1)).long(), (height - h) // 2)
    left = torch.where(any_fits, (u[1] * (width - w + 1)).long(), (width - w) // 2)
    return Boxes(top, left, h, w, u[2] < 0.5)


def _interpolation(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Bilinear weights [N, size, size] that stretch pixels start..start+length-1 to `size` (half-pixel centres).

    Positions are clamped to the box, so pixels outside have weight exactly 0.
    """
    centre = (torch.arange(size) + 0.5) * (length[:, None] / size) - 0.5
    position = start[:, None] + torch.minimum(centre.clamp(min=0), length[:, None] - 1)
    return (1 - (position[:, :, None] - torch.arange(size)).abs()).clamp(min=0)


def resize_boxes(images: Tensor, boxes: Boxes) -> Tensor:
    """Each image's box, resized bilinearly to the full size and flipped where asked. [N, C, H, W] -> same shape.

    Two matrix products with sparse interpolation matrices: separable, deterministic,
    gradient to the pixels inside the box only.
    """
    rows = _interpolation(boxes.top, boxes.height, images.shape[2])
    columns = _interpolation(boxes.left, boxes.width, images.shape[3])
    columns = torch.where(boxes.flip[:, None, None], columns.flip(1), columns)
    rows, columns = rows.to(images), columns.to(images)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)
