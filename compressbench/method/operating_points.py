"""Models that run at several operating points, such as budgets or confidence thresholds: one checkpoint, a network per point.

Evaluation and latency measure every point, and the report has a row for each. A stored model offers

- `operating_points`: name -> label, in the order of the tables, strongest compression first. A name holds neither "@" nor "/".
- `at(point)`: the network of one point, in eval mode, without reading a file. It may share its tensors with the model.

A network whose arithmetic depends on the image also offers `mean_macs(batches)`: the multiply-accumulates of one image, the
mean over all batches [B, C, H, W]. A model whose networks are chains of blocks may offer `blocks(point)` and `block(name)`:
the latency stage then tells how well a table of block latencies predicts the networks. Any other model has one operating
point, which has no name.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Adaptive(Protocol):
    """A model with several operating points."""

    operating_points: Mapping[str, str]

    def at(self, point: str) -> nn.Module:
        """The network of one point."""
        ...


@runtime_checkable
class Blockwise(Adaptive, Protocol):
    """An adaptive model whose networks are chains of blocks. Blocks of the same name take the same time."""

    def blocks(self, point: str) -> Sequence[Hashable]:
        """The names of one point's blocks."""
        ...

    def block(self, name: Any) -> tuple[nn.Module, Tensor]:
        """A block, and an input for it."""
        ...


@runtime_checkable
class ImageDependent(Protocol):
    """A network that spends more on some images than on others."""

    def mean_macs(self, batches: Iterable[Tensor]) -> float:
        """Multiply-accumulates per image, the mean over all images of `batches` [B, C, H, W]."""
        ...
