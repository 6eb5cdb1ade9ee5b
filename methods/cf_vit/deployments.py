"""Both passes on the transformers of the paper, and batches of which the published share exits after the first pass."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.accounting import account
from compressbench.method import FLOAT, Deployment
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.models.structure import network_of
from compressbench.models.vit import Coarse, CoarseOnly, CoarseToFineViT

PASSES = {"coarse": "coarse pass alone", "both": "both passes"}
BATCH = 6  # in which the published shares are whole images, or nearly
# of the images that exit, from published.csv: the exits at 1.5, 2.0 and 2.5 GFLOPs; and what the FLOPs at threshold 0.63 say
EXITS = {"DeiT-S": (42910 / 50000, 34579 / 50000, 25618 / 50000), "LV-ViT-S": (0.667,)}
PUBLISHED = {"LV-ViT-S": "2.01 times the images per second, hardware not named"}
NOTE = "whichever images exit, their share is the same in every batch"


def built(model: Network) -> CoarseToFineViT:
    """The transformer with a coarse pass."""
    return network_of(models.build("coarse_to_fine_vit", backbone=dict(model.spec.arguments)), CoarseToFineViT)


@dataclass(frozen=True)
class OperatingPoint:
    """The transformer with a coarse pass, at one of its operating points."""

    point: str

    def __call__(self, model: Network) -> nn.Module:
        return built(model).at(self.point)


class FirstExit(nn.Module):
    """The first images of a batch exit after the coarse pass: with random weights, confidence says nothing."""

    def __init__(self, model: CoarseToFineViT, share: float) -> None:
        super().__init__()
        self.model, self.share = model, share

    def forward(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> logits [B, classes]."""
        images, exits = self.model.backbone.pad(images), round(self.share * len(images))
        coarse = self.model.coarse(images)
        features = self.model.fine(images[exits:], Coarse(*(part[exits:] for part in coarse)))
        return torch.cat([coarse.logits[:exits], self.model.backbone.logits(features)])

    def mean_macs(self, batches: Iterable[Tensor]) -> float:
        """Per image: the coarse pass, and both passes for those that go on."""
        sizes = [len(images) for images in batches]
        going_on = sum(size - round(self.share * size) for size in sizes) / sum(sizes)
        side = self.model.backbone.side
        coarse, both = (account(network, (3, side, side)).macs for network in (CoarseOnly(self.model), self.model))
        return coarse + going_on * (both - coarse)


@dataclass(frozen=True)
class Exits:
    """The transformer with a coarse pass, after which this share of a batch exits."""

    share: float

    def __call__(self, model: Network) -> nn.Module:
        return FirstExit(built(model), self.share)


def deployments() -> list[Deployment]:
    """The coarse pass alone and both passes of every network, for one image; and batches at the published exit shares."""
    single = [
        Deployment(
            NETWORKS[name], words, OperatingPoint(point), FLOAT, representative=(name, point) == ("DeiT-S", "coarse")
        )
        for name in EXITS
        for point, words in PASSES.items()
    ]
    batches = [
        Deployment(
            NETWORKS[name],
            f"{round(share * BATCH)} of {BATCH} images exit",
            Exits(share),
            FLOAT,
            published=PUBLISHED.get(name, ""),
            note=NOTE,
            batch=BATCH,
        )
        for name, shares in EXITS.items()
        for share in shares
    ]
    return single + batches
