"""Images that were synthesized against a trained network."""

from typing import NamedTuple

from torch import Tensor


class SyntheticImages(NamedTuple):
    """Images made against a teacher.

    images: float32 [N, C, H, W], in the network's normalised input space.
    labels: int64 [N].
    """

    images: Tensor
    labels: Tensor
