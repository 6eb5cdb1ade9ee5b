"""Labelled image files of any size as a split, and training batches of them that are a pure function of (seed, step)."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from compressbench.data.classification import Augmentation, shuffled
from compressbench.data.images import read_rgb
from compressbench.data.loader import HERE, Ahead, Loader
from compressbench.data.preprocessing import Preprocessing
from compressbench.data.transforms import centre, mirrored, normalise, random_part
from compressbench.errors import UserError
from compressbench.seeding import derive_seed

AUGMENTATIONS = tuple(name for name in get_args(Augmentation) if name != "crop_flip")
"""Those of image files; `crop_flip` is for images that are as small as the network's input."""


@dataclass(frozen=True)
class FolderSplit:
    """Image files with labels. Nothing is held in memory but their names.

    folder: where they lie. names: of the files below it, encoded, [N]. labels: int64 [N].
    preprocessing: from a file to the network's input in evaluation. loader: how they are read; changes no bit.
    """

    folder: Path
    names: np.ndarray  # one block of bytes: a list of strings would be copied into every worker by its reference counts
    labels: Tensor
    preprocessing: Preprocessing
    loader: Loader = HERE

    @classmethod
    def of(
        cls, folder: Path, files: Sequence[tuple[str, int]], preprocessing: Preprocessing, loader: Loader = HERE
    ) -> "FolderSplit":
        """A split of (name, label) in their order."""
        names = np.array([os.fsencode(name) for name, _ in files], dtype=bytes)
        return cls(folder, names, torch.tensor([label for _, label in files], dtype=torch.int64), preprocessing, loader)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int) -> Tensor:
        """One file as uint8 [3, H, W]; UserError names it where it is missing, damaged or no image."""
        path = self.folder / os.fsdecode(bytes(self.names[index]))
        try:
            return torch.from_numpy(read_rgb(path, reduce=True)).permute(2, 0, 1)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reports a broken PNG as a SyntaxError
            raise UserError(f"{path} is damaged or cannot be read ({error}); replace it, or remove it.") from error

    def images_at(self, indices: Tensor | slice) -> Tensor:
        """The images at int64 [n] or at a slice, float32 [n, 3, size, size], as a network sees them in evaluation."""
        chosen = range(len(self))[indices] if isinstance(indices, slice) else indices.tolist()
        return normalise([centre(self.pixels(i), self.preprocessing) for i in chosen], self.preprocessing)

    def in_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, 3, size, size] and labels [B] in their order, `size` at a time; the last batch may be smaller."""
        return self.loader.map(partial(self._part, size), range(-(-len(self) // size)))

    def _part(self, size: int, number: int) -> tuple[Tensor, Tensor]:
        part = slice(number * size, (number + 1) * size)
        return self.images_at(part), self.labels[part]

    def take(self, indices: Tensor | slice) -> "FolderSplit":
        """The part of the split at int64 [n] or at a slice."""
        chosen = indices if isinstance(indices, slice) else indices.numpy()
        return replace(self, names=self.names[chosen], labels=self.labels[indices])

    def relabelled(self, labels: Tensor) -> "FolderSplit":
        """The same images with labels int64 [N]."""
        return replace(self, labels=labels)

    def batches(
        self, batch_size: int, seed: int, augmentation: Augmentation = "none", padding: int | None = None
    ) -> "FolderBatches":
        """Training batches; nothing is padded."""
        return FolderBatches(self, batch_size, seed, augmentation)


@dataclass(frozen=True)
class Steps:
    """Step -> images and labels. What becomes of an image depends on (seed, pass over the data, image) and on nothing else.

    rows: of every batch; other files are not read.
    """

    split: FolderSplit
    batch_size: int
    seed: int
    augmentation: Augmentation
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def per_epoch(self) -> int:
        return len(self.split) // self.batch_size

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, size, size], channels_last, and labels int64 [B], or those of `rows`."""
        pass_, position = divmod(step, self.per_epoch)
        order = shuffled(len(self.split), self.seed, pass_)
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size][self.rows]
        images = [self._image(pass_, index) for index in chosen.tolist()]
        return normalise(images, self.split.preprocessing), self.split.labels[chosen]

    def _image(self, pass_: int, index: int) -> Tensor:
        image, how = self.split.pixels(index), self.split.preprocessing
        seed = derive_seed(self.seed, "augmentation", pass_, index)
        if self.augmentation == "resized_crop_flip":
            return random_part(image, how.size, how.interpolation, how.antialias, seed=seed)
        image = centre(image, how)
        return mirrored(image, seed) if self.augmentation == "flip" else image


class FolderBatches:
    """Shuffled, augmented batches of image files, read ahead by the split's loader: `batches(step)` is `Steps`' (step)."""

    def __init__(self, split: FolderSplit, batch_size: int, seed: int, augmentation: Augmentation = "none") -> None:
        if not 1 <= batch_size <= len(split):
            raise UserError(f"batch_size {batch_size} does not fit {len(split)} training images; lower it.")
        if augmentation not in AUGMENTATIONS:
            raise UserError(
                f"augmentation {augmentation} pads images that are as small as the network's input; image files take one of "
                f"{', '.join(AUGMENTATIONS)}."
            )
        self.batch_size, self._steps = batch_size, Steps(split, batch_size, seed, augmentation)
        self.steps_per_epoch = self._steps.per_epoch
        self._ahead = Ahead(self._steps, split.loader)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, size, size] and labels int64 [B] of one step."""
        batch: tuple[Tensor, Tensor] = self._ahead(step)
        return batch

    def rows(self, rows: slice) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Step -> these rows of its batch, in the same bits, without reading the files of the others."""
        return Ahead(replace(self._steps, rows=rows), self._steps.split.loader)
