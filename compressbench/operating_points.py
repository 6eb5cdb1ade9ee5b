"""Models that run at several operating points, such as budgets or confidence thresholds: one checkpoint, a network per point.

Evaluation and latency measure every point, and the report has a row for each. A stored model offers

- `operating_points`: name -> label, in the order of the tables, strongest compression first. A name holds neither "@" nor "/".
- `at(point)`: the network of one point, in eval mode, without reading a file. It may share its tensors with the model.

A network whose arithmetic depends on the image also offers `mean_macs(images)`: the multiply-accumulates of one image of
`images` [N, C, H, W], on average. Any other model has one operating point, which has no name.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Adaptive(Protocol):
    """A model with several operating points."""

    operating_points: Mapping[str, str]

    def at(self, point: str) -> nn.Module:
        """The network of one point."""
        ...


@runtime_checkable
class ImageDependent(Protocol):
    """A network that spends more on some images than on others."""

    def mean_macs(self, images: Tensor) -> float:
        """Multiply-accumulates per image, the mean over `images` [N, C, H, W]."""
        ...
