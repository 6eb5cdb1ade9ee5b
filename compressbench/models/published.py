"""Networks of papers at full size and without weights, for counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from compressbench import models


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of a paper. The counts of a method extend it by what the paper publishes of it.

    name: as in published.csv. size: side of the square input image, three channels.
    """

    name: str
    architecture: str
    arguments: Mapping[str, object]
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of an input image."""
        return (3, self.size, self.size)

    def build(self, **more: object) -> models.Network:
        """On the meta device: shapes only. `more` are further arguments of the architecture."""
        with torch.device("meta"):
            return models.build(self.architecture, **dict(self.arguments) | more)
