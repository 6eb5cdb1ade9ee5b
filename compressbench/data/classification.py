"""Classification data: whole data sets as tensors, and batches that are a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.data.datasets import DatasetInfo
from compressbench.data.preprocessing import Preprocessing
from compressbench.data.transforms import random_part
from compressbench.errors import UserError
from compressbench.seeding import derive_seed, generator

Augmentation = Literal["none", "flip", "crop_flip", "resized_crop_flip"]


class AnySplit(Protocol):
    """Labelled images, in memory (`Split`) or in files (`FolderSplit`)."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]"""
        ...

    def __len__(self) -> int: ...

    def images_at(self, indices: Tensor | slice) -> Tensor:
        """The images at int64 [n] or at a slice, float32 [n, C, H, W], as a network sees them in evaluation."""
        ...

    def in_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, C, H, W] and labels [B] in their order, `size` at a time; the last batch may be smaller."""
        ...

    def take(self, indices: Tensor | slice) -> Self:
        """The part of the split at int64 [n] or at a slice."""
        ...

    def relabelled(self, labels: Tensor) -> Self:
        """The same images with labels int64 [N]."""
        ...

    def batches(
        self, batch_size: int, seed: int, augmentation: Augmentation = "none", padding: int | None = None
    ) -> "Batches":
        """Training batches. `padding` is that of crops: default an eighth of the image."""
        ...


class Batches(Protocol):
    """Step -> images float32 [B, C, H, W] and labels int64 [B]: depends on nothing but (seed, step)."""

    steps_per_epoch: int

    def __call__(self, step: int) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Split:
    """Images float32 [N, C, H, W], normalised (channels_last when C > 1), and labels int64 [N]."""

    images: Tensor
    labels: Tensor
    black: tuple[float, ...] = (0.0,)  # a black pixel after normalisation, per channel: what crops are padded with

    def __len__(self) -> int:
        return len(self.labels)

    def images_at(self, indices: Tensor | slice) -> Tensor:
        """The images at int64 [n] or at a slice, float32 [n, C, H, W], as a network sees them in evaluation."""
        return self.images[indices]

    def in_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, C, H, W] and labels [B] in their order, `size` at a time; the last batch may be smaller."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)

    def take(self, indices: Tensor | slice) -> "Split":
        """The part of the split at int64 [n] or at a slice."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def relabelled(self, labels: Tensor) -> "Split":
        """The same images with labels int64 [N]."""
        return replace(self, labels=labels)

    def batches(
        self, batch_size: int, seed: int, augmentation: Augmentation = "none", padding: int | None = None
    ) -> "ClassificationBatches":
        """Training batches; `padding` is that of crops."""
        return ClassificationBatches(self, batch_size, seed, augmentation, padding)


@dataclass(frozen=True)
class ClassificationData:
    """Three disjoint splits; validation comes out of the training images, never out of the test images."""

    info: DatasetInfo
    train: AnySplit
    validation: AnySplit
    test: AnySplit


def make_split(about: DatasetInfo, images: np.ndarray, labels: np.ndarray) -> Split:
    """Uint8 [N, H, W, C] or float [0, 1] images -> a normalised split."""
    mean, std = torch.tensor(about.mean), torch.tensor(about.std)
    x = torch.from_numpy(np.array(images))  # a copy: memory maps are read-only
    x = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
    x = x.sub_(mean).div_(std).permute(0, 3, 1, 2)
    if about.channels == 1:
        x = x.contiguous()
    return Split(x, torch.from_numpy(np.asarray(labels, dtype=np.int64)), tuple((-mean / std).tolist()))


def divide(
    about: DatasetInfo,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    validation: int,
    limit: int | None,
) -> ClassificationData:
    """The last `validation` training images become the validation split; `limit` cuts what is left to train on."""
    cut = len(train[1]) - validation
    kept = cut if limit is None else min(limit, cut)
    return ClassificationData(
        about,
        make_split(about, train[0][:kept], train[1][:kept]),
        make_split(about, train[0][cut:], train[1][cut:]),
        make_split(about, test[0], test[1]),
    )


def renormalised(loaded: Any, how: Preprocessing) -> Any:
    """Classification data in memory with another mean and deviation. UserError where the network wants another size."""
    about = loaded.info
    if how.size != about.size or not hasattr(loaded, "train"):
        raise UserError(
            f"the network wants images of {how.size} pixels, but {about.name} has {about.size}; take another."
        )
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (about.mean, about.std))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (how.mean, how.std))
    black = tuple((-mean / std).flatten().tolist())

    def of(split: Split) -> Split:
        return Split((split.images * scale + shift - mean) / std, split.labels, black)

    parts = {name: of(getattr(loaded, name)) for name in ("train", "validation", "test")}
    return replace(loaded, info=about.adapted(how), **parts)


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, pass_: int) -> Tensor:
    """The order of `count` images in one pass over them, int64 [count]."""
    return torch.randperm(count, generator=generator(seed, "order", pass_))


class ClassificationBatches:
    """Shuffled, augmented batches: `batches(step)` depends on nothing but (seed, step).

    Every pass has its own order and drops the last partial batch. `padding` is that of crops; default: an eighth of the image.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        augmentation: Augmentation = "none",
        padding: int | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(split):
            raise UserError(f"batch_size {batch_size} does not fit {len(split)} training images; lower it.")
        self.split, self.batch_size, self.seed, self.augmentation = split, batch_size, seed, augmentation
        self.steps_per_epoch = len(split) // batch_size
        self._padding = split.images.shape[-1] // 8 if padding is None else padding
        # Gathering rows of [N, H, W, C] keeps channels_last, which gathering from [N, C, H, W] would lose.
        self._channels_last = split.images.shape[1] > 1
        self._rows = split.images.permute(0, 2, 3, 1) if self._channels_last else split.images

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B] of one step."""
        pass_, position = divmod(step, self.steps_per_epoch)
        order = shuffled(len(self.split), self.seed, pass_)
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size].to(self._rows.device)
        images, labels = self._rows.index_select(0, chosen), self.split.labels.index_select(0, chosen)
        images = images.permute(0, 3, 1, 2) if self._channels_last else images
        if self.augmentation == "resized_crop_flip":
            seeds = [derive_seed(self.seed, "augmentation", pass_, index) for index in chosen.tolist()]
            return random_parts(images, seeds), labels
        return self._augment(images, step), labels

    def _augment(self, images: Tensor, step: int) -> Tensor:
        if self.augmentation == "none":
            return images
        rng = generator(self.seed, "augmentation", step)
        if self.augmentation == "crop_flip":
            images = random_crop(images, self._padding, self.split.black, rng)
        return random_flip(images, rng)


def random_flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image of [B, C, H, W] is mirrored horizontally with probability 1/2."""
    mirrored = (torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5).to(images.device)
    return torch.where(mirrored, images.flip(-1), images)


def random_crop(images: Tensor, padding: int, black: tuple[float, ...], rng: torch.Generator) -> Tensor:
    """Pads [B, C, H, W] with black and cuts a window of the old size out of each image (4 pixels for 32x32)."""
    count, channels, height, width = images.shape
    frame = images.new_tensor(black).expand(channels).view(1, -1, 1, 1)
    padded = F.pad(images - frame, (padding,) * 4) + frame
    top, left = torch.randint(2 * padding + 1, (2, count), generator=rng).to(images.device)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(count, device=images.device), :, top, left]
    return cropped.contiguous(memory_format=torch.channels_last) if channels > 1 else cropped


def random_parts(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """`random_part` of each image of [B, C, N, N], in its layout."""
    side = images.shape[-1]
    parts = [random_part(image, side, seed=seed) for image, seed in zip(images, seeds, strict=True)]
    layout = torch.channels_last if images.shape[1] > 1 else torch.contiguous_format
    return torch.stack(parts).contiguous(memory_format=layout)
