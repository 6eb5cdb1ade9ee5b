"""Bicubic resizing as the super-resolution literature does it, with MATLAB's imresize: images are mirrored at the border.

Low-resolution images must come from `downscale`: Pillow, OpenCV and plain torch interpolation use other kernels or
borders, and PSNR values are then not comparable with published ones.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_REACH = 2  # pixels on either side that the cubic kernel reads when it enlarges


def keys_kernel(t: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5."""
    t = t.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t <= 2, far, 0.0))


def taps(length: int, factor: int) -> tuple[Tensor, Tensor]:
    """Weights float64 and source indices int64, both [ceil(length / factor), 4 * factor + 2], of one dimension.

    Output i (counted from 1) is centred on i * factor + (1 - factor) / 2; indices that fall outside are reflected with
    the edge pixel repeated; weights sum to 1.
    """
    centre = torch.arange(1, math.ceil(length / factor) + 1, dtype=torch.float64) * factor + (1 - factor) / 2
    first = torch.floor(centre - 2 * factor)
    positions = first[:, None] + torch.arange(4 * factor + 2)
    weights = keys_kernel((centre[:, None] - positions) / factor) / factor
    weights /= weights.sum(1, keepdim=True)
    return weights, mirrored(positions.long() - 1, length)


def mirrored(indices: Tensor, length: int) -> Tensor:
    """Indices int64 below 0 and from `length` on, reflected into 0..length - 1 with the edge pixel repeated."""
    wrapped = indices % (2 * length)
    return torch.minimum(wrapped, 2 * length - 1 - wrapped)


def _downscale_rows(image: Tensor, factor: int) -> Tensor:
    """Float64 [..., H, W] -> [..., ceil(H / factor), W], summed tap by tap: the same bits on any machine."""
    weights, indices = taps(image.shape[-2], factor)
    terms = (image.index_select(-2, i) * w[:, None] for w, i in zip(weights.T, indices.T, strict=True))
    return sum(terms, torch.zeros(1, dtype=torch.float64))


def downscale_exact(image: Tensor, factor: int) -> Tensor:
    """Float64 [..., ceil(H / factor), ceil(W / factor)] without rounding: rows first, then columns."""
    rows = _downscale_rows(image.double(), factor)
    return _downscale_rows(rows.transpose(-2, -1), factor).transpose(-2, -1)


def downscale(image: Tensor, factor: int) -> Tensor:
    """Uint8 [..., H, W] -> uint8 [..., ceil(H / factor), ceil(W / factor)]: imresize(im2double(image), 1 / factor)."""
    if image.dtype != torch.uint8 or factor < 1:
        raise ValueError(f"downscale wants a uint8 image and a factor >= 1, got {image.dtype} and {factor}")
    resized = downscale_exact(image.double() / 255, factor)
    return torch.floor(255 * resized + 0.5).clamp(0, 255).byte()


def upscale_bicubic(x: Tensor, factor: int) -> Tensor:
    """[N, C, h, w] with values 0..255 -> [N, C, factor * h, factor * w], clipped and rounded to whole grey levels.

    torch's antialiased mode has a = -0.5 (its plain mode -0.75), and enlarging does not widen the kernel. At the border
    it would drop the taps outside and renormalise, so the image is mirrored first, as far as the kernel reaches.
    """
    height, width = x.shape[-2:]
    for dim, length in ((-2, height), (-1, width)):
        x = x.index_select(dim, mirrored(torch.arange(-_REACH, length + _REACH, device=x.device), length))
    size = (x.shape[-2] * factor, x.shape[-1] * factor)
    enlarged = F.interpolate(x.double(), size, mode="bicubic", antialias=True)
    border = _REACH * factor
    inside = enlarged[..., border : border + height * factor, border : border + width * factor]
    return inside.clamp(0, 255).round().to(x.dtype)
