"""The calibration set, its BNS centres, and how far a batch of one class is from its centre."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from compressbench.data import SyntheticImages
from compressbench.data_free.norm_statistics import NormInputs
from compressbench.errors import UserError
from compressbench.finite import best_class


class Statistics(NamedTuple):
    """Batch-norm statistics (BNS) of one batch, or what they should be: all layers in one vector, in execution order.

    means, variances (biased): float32 [channels of all layers].
    """

    means: Tensor
    variances: Tensor

    @classmethod
    def of(cls, seen: Sequence[tuple[Any, Tensor, Tensor]]) -> Self:
        """What `NormInputs.take` returns."""
        return cls(torch.cat([mean for _, mean, _ in seen]), torch.cat([variance for _, _, variance in seen]))


class ClassCentres(NamedTuple):
    """The statistics of each class's calibration image. They belong to one teacher.

    means, variances: float32 [classes, channels of all layers]. recognised: bool [classes], the set K.
    channels: those of each layer.
    """

    means: Tensor
    variances: Tensor
    recognised: Tensor
    channels: tuple[int, ...]

    def centre(self, label: int | Tensor) -> Statistics:
        """Of one class."""
        return Statistics(self.means[label], self.variances[label])


def first_aligned_layer(layers: int) -> int:
    """l0 = int((L + 1) / 2) − 2: the deeper half, and a little more."""
    return max(0, (layers + 1) // 2 - 2)


def layer_weights(channels: Sequence[int], first: int = 0) -> Tensor:
    """1 / (n C_l) for every channel of the n layers from `first` on, 0 before: a sum so weighted is a mean of layer means."""
    kept = len(channels) - first
    weights = [1 / (kept * width) if layer >= first else 0.0 for layer, width in enumerate(channels)]
    return torch.tensor(weights).repeat_interleave(torch.tensor(channels))


def distance(statistics: Statistics, target: Statistics, weights: Tensor) -> Tensor:
    """(1/n) Σ_l [mse(m_l, target) + mse(v_l, target)] with the `layer_weights` [channels]: scalar. With a centre: L_C."""
    squares = (statistics.means - target.means).square() + (statistics.variances - target.variances).square()
    return (weights * squares).sum()


def distorted(centre: Statistics, noise: Tensor, mean_noise: float, variance_noise: float) -> Statistics:
    """The target of L_D: the centre plus Gaussian noise [2, channels], one row for the means, one for the variances."""
    return Statistics(centre.means + mean_noise * noise[0], centre.variances + variance_noise * noise[1])


def calibration_indices(labels: Tensor, classes: int, per_class: int, generator: torch.Generator) -> Tensor:
    """Which images calibrate: `per_class` random ones of every class, int64 [classes · per_class], by class."""
    order = torch.randperm(len(labels), generator=generator)
    chosen = [order[labels[order] == label][:per_class] for label in range(classes)]
    for label, own in enumerate(chosen):
        if len(own) < per_class:
            raise UserError(
                f"class {label} has {len(own)} training images, the calibration set needs {per_class}; use more training "
                "images or a smaller images_per_class."
            )
    return torch.cat(chosen)


@torch.no_grad()
def class_centres(teacher: nn.Module, calibration: SyntheticImages, classes: int) -> ClassCentres:
    """The BNS centres, from one forward pass per class over its images [n, C, H, W], usually one.

    A class is recognised where the teacher is right about most of them. UserError for a class without an image, and where
    no class is recognised.
    """
    centres, recognised = [], []
    with NormInputs(teacher) as statistics:
        for label in range(classes):
            own = calibration.images[calibration.labels == label]
            if not len(own):
                raise UserError(f"class {label} has no calibration image and therefore no centre; add one.")
            hits = best_class(teacher(own), "the teacher") == label
            seen = statistics.take()
            centres.append(Statistics.of(seen))
            recognised.append(hits.float().mean() > 0.5)
    if not any(recognised):
        raise UserError(
            "the teacher recognises none of the calibration images, so that no class has a centre to aim at; train it longer "
            "or take more images_per_class."
        )
    means, variances = (torch.stack(parts) for parts in zip(*centres, strict=True))
    return ClassCentres(means, variances, torch.stack(recognised), tuple(len(mean) for _, mean, _ in seen))
