"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): every image of a batch is mixed with its mirror in the batch."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.seeding import derive_seed


class Box(NamedTuple):
    """Rows top:bottom and columns left:right of a grid."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(height: int, width: int, kept: float, rng: np.random.Generator) -> Box:
    """A box of the share 1 - `kept` of the grid around a random cell, cut off at the borders."""
    rows, columns = (int(side * np.sqrt(1 - kept)) for side in (height, width))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = np.clip([y - rows // 2, y + rows // 2], 0, height)
    left, right = np.clip([x - columns // 2, x + columns // 2], 0, width)
    return Box(int(top), int(bottom), int(left), int(right))


def soft_labels(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """int64 [B] -> [B, classes]: 1 - smoothing on the label, and smoothing shared by all classes."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


@dataclass(frozen=True)
class MixedBatches:
    """Batches of mixed images with soft labels [B, classes]; a pure function of (seed, step) like those of `source`.

    mixup, cutmix: parameter of the Beta distribution of each, 0 for off. With both on, a coin chooses for every batch.
    """

    source: Any
    classes: int
    smoothing: float
    mixup: float
    cutmix: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return int(self.source.steps_per_epoch)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, c, H, W] and soft labels of one step."""
        images, labels = self.source(step)
        target = soft_labels(labels, self.classes, self.smoothing)
        if not (self.mixup or self.cutmix):
            return images, target
        rng = np.random.default_rng(derive_seed(self.seed, "mixing", step))
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        kept = float(rng.beta(*(self.cutmix if cut else self.mixup,) * 2))
        if cut:
            box = draw_box(images.shape[2], images.shape[3], kept, rng)
            images = paste(images, box)
            kept = 1 - box.area / (images.shape[2] * images.shape[3])
        else:
            images = torch.lerp(images.flip(0), images, kept)
        return images, torch.lerp(target.flip(0), target, kept)


def paste(grid: Tensor, box: Box) -> Tensor:
    """[B, ..., H, W] with the box of every entry taken from its mirror in the batch. Doing it twice undoes it."""
    mixed = grid.clone()
    inside = (..., slice(box.top, box.bottom), slice(box.left, box.right))
    mixed[inside] = grid.flip(0)[inside]
    return mixed
