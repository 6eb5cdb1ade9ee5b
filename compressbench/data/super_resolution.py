"""Super-resolution data: pairs of a low- and a high-resolution image, and batches of aligned patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compressbench.data.datasets import DatasetInfo, remedy
from compressbench.data.images import read_rgb
from compressbench.data.imresize import downscale
from compressbench.errors import UserError
from compressbench.seeding import generator


@dataclass(frozen=True)
class ImagePair:
    """Low [3, h, w] and high [3, upscaling * h, upscaling * w] of one image, 0..255; float32 (DIV2K's training: uint8)."""

    name: str
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class SuperResolutionData:
    """Training and test pairs; there is no validation split, so the last epoch counts."""

    info: DatasetInfo
    upscaling: int
    train: list[ImagePair]
    test: list[ImagePair]


def read_image(path: Path) -> Tensor:
    """An image file as RGB uint8 [3, H, W], as `read_rgb` reads it."""
    try:
        pixels = read_rgb(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy(path)}.") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reports a broken PNG as a SyntaxError
        raise UserError(f"{path} is damaged ({error}); {remedy(path)}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def centre_crop(image: Tensor, side: int) -> Tensor:
    """The middle [..., side, side] of an image, or all of it where it is smaller."""
    top, left = (max(n - side, 0) // 2 for n in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def make_pair(name: str, image: Tensor, upscaling: int) -> ImagePair:
    """Uint8 [3, H, W], cropped to a multiple of the upscaling factor, beside its bicubic reduction; both uint8."""
    height, width = (n - n % upscaling for n in image.shape[-2:])
    high = image[..., :height, :width].contiguous()
    return ImagePair(name, downscale(high, upscaling), high)


def as_float(pair: ImagePair) -> ImagePair:
    """The pair in float32."""
    return ImagePair(pair.name, pair.low.float(), pair.high.float())


class PatchBatches:
    """Random aligned patches, flipped and transposed at random: `batches(step)` depends on nothing but (seed, step).

    `patch` is the side of the low-resolution patch. One epoch shows every training pixel once on average.
    """

    def __init__(self, pairs: Sequence[ImagePair], upscaling: int, patch: int, batch_size: int, seed: int) -> None:
        smallest = min(min(pair.low.shape[-2:]) for pair in pairs)
        if not 1 <= patch <= smallest:
            raise UserError(f"patch {patch} does not fit the smallest low-resolution image; choose 1 to {smallest}.")
        for pair in pairs:
            if tuple(pair.high.shape[-2:]) != tuple(upscaling * n for n in pair.low.shape[-2:]):
                raise UserError(
                    f"'{pair.name}' is not enlarged by {upscaling}: {[*pair.low.shape]}, {[*pair.high.shape]}."
                )
        self.pairs, self.upscaling, self.patch, self.batch_size, self.seed = (
            tuple(pairs),
            upscaling,
            patch,
            batch_size,
            seed,
        )
        pixels = sum(pair.low.shape[-2] * pair.low.shape[-1] for pair in pairs)
        self.steps_per_epoch = max(1, pixels // (patch * patch * batch_size))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Low float32 [B, 3, patch, patch] and high float32 [B, 3, upscaling * patch, upscaling * patch], 0..255."""
        rng = generator(self.seed, "patches", step)
        chosen = torch.randint(len(self.pairs), (self.batch_size,), generator=rng).tolist()
        places = torch.rand(self.batch_size, 2, generator=rng).tolist()
        cut = [self._cut(self.pairs[index], *place) for index, place in zip(chosen, places, strict=True)]
        low, high = (torch.stack(images).float() for images in zip(*cut, strict=True))
        flips = torch.rand(3, self.batch_size, 1, 1, 1, generator=rng) < 0.5
        return _turn(low, flips), _turn(high, flips)

    def _cut(self, pair: ImagePair, down: float, right: float) -> tuple[Tensor, Tensor]:
        """The window of `patch` low-resolution pixels at the given fractions of the image, in both resolutions."""
        height, width = pair.low.shape[-2:]
        top, left = int(down * (height - self.patch + 1)), int(right * (width - self.patch + 1))
        low = pair.low[:, top : top + self.patch, left : left + self.patch]
        side, top, left = self.patch * self.upscaling, top * self.upscaling, left * self.upscaling
        return low, pair.high[:, top : top + side, left : left + side]


def _turn(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors, turns upside down and transposes the images [B, C, N, N] that `flips` [3, B, 1, 1, 1] marks."""
    mirrored, upside_down, transposed = flips
    images = torch.where(mirrored, images.flip(-1), images)
    images = torch.where(upside_down, images.flip(-2), images)
    return torch.where(transposed, images.transpose(-2, -1), images).contiguous(memory_format=torch.channels_last)
