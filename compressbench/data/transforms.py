"""From the pixels of an image file to a network's input: torchvision's transforms, seeded image by image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from compressbench.data.preprocessing import Preprocessing


def centre(image: Tensor, how: Preprocessing) -> Tensor:
    """[C, H, W] -> [C, size, size]: the shorter side is resized, the centre is cut out."""
    functional = _v2().functional
    resized = functional.resize(image, [how.resize], _mode(how.interpolation), antialias=how.antialias)
    found: Tensor = functional.center_crop(resized, [how.size])
    return found


def random_part(
    image: Tensor, size: int, interpolation: str = "bilinear", antialias: bool = True, *, seed: int
) -> Tensor:
    """[C, H, W] -> [C, size, size]: 8 to 100 % of the image at 3:4 to 4:3, mirrored with probability 1/2; by `seed` alone.

    As Inception is trained (Szegedy et al. 2015) and ImageNet since.
    """
    with _drawing_from(seed):
        found: Tensor = _random_part(size, interpolation, antialias)(image)
    return found


def mirrored(image: Tensor, seed: int) -> Tensor:
    """[C, H, W], mirrored horizontally with probability 1/2; by `seed` alone."""
    with _drawing_from(seed):
        found: Tensor = _v2().RandomHorizontalFlip()(image)
    return found


def normalise(images: Sequence[Tensor], how: Preprocessing) -> Tensor:
    """Uint8 images [3, size, size] -> float32 [B, 3, size, size], channels_last."""
    pixels = torch.empty(len(images), how.size, how.size * 3)
    for row, image in zip(pixels, images, strict=True):
        row.view(how.size, how.size, 3).copy_(image.permute(1, 2, 0))
    # Whole rows of mean and deviation: a last dimension of three cannot be vectorised.
    mean, std = (torch.tensor(values).repeat(how.size) for values in (how.mean, how.std))
    return pixels.div_(255).sub_(mean).div_(std).view(-1, how.size, how.size, 3).permute(0, 3, 1, 2)


@lru_cache
def _random_part(size: int, interpolation: str, antialias: bool) -> Any:
    v2 = _v2()
    part = v2.RandomResizedCrop(size, interpolation=_mode(interpolation), antialias=antialias)
    return v2.Compose([part, v2.RandomHorizontalFlip()])


def _mode(interpolation: str) -> Any:
    return _v2().InterpolationMode(interpolation)


def _v2() -> Any:
    from compressbench import torchvision_compat  # noqa: F401  (torchvision imports after it only)

    return import_module("torchvision.transforms.v2")


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """torchvision draws from PyTorch's generator, which the training goes on with as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
