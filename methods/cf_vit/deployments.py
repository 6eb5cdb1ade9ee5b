"""Both passes on the transformers of the paper. Early exits depend on the image, and cost what lies between."""

from dataclasses import dataclass

from torch import nn

from compressbench import models
from compressbench.method import FLOAT, Deployment
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.models.structure import network_of
from compressbench.models.vit import CoarseToFineViT

PASSES = {"coarse": "coarse pass alone", "both": "both passes"}
NETWORK_NAMES = ("DeiT-S", "LV-ViT-S")


@dataclass(frozen=True)
class OperatingPoint:
    """The transformer with a coarse pass, at one of its operating points."""

    point: str

    def __call__(self, model: Network) -> nn.Module:
        built = models.build("coarse_to_fine_vit", backbone=dict(model.spec.arguments))
        return network_of(built, CoarseToFineViT).at(self.point)


def deployments() -> list[Deployment]:
    """The coarse pass alone and both passes of every network."""
    return [
        Deployment(
            NETWORKS[name], words, OperatingPoint(point), FLOAT, representative=(name, point) == ("DeiT-S", "coarse")
        )
        for name in NETWORK_NAMES
        for point, words in PASSES.items()
    ]
