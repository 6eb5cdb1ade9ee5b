"""Whether an exported network computes what the suite's own model does."""

from typing import NamedTuple

from torch import Tensor

from compressbench.errors import UserError
from compressbench.finite import finite
from compressbench.runtimes.base import GROSS, Runtime


class Difference(NamedTuple):
    """Between the outputs of a file and those of the model."""

    largest: float
    """Of one output."""
    relative: float
    """In the 2-norm, over all images."""
    agreement: float | None
    """Share of the images whose largest logit is the same one, in %; None where the outputs are images."""

    def __str__(self) -> str:
        same = "" if self.agreement is None else f", the same class for {self.agreement:g} % of the images"
        return f"outputs differ by at most {self.largest:.2g} ({self.relative:.2g} relative){same}"


def compare(outputs: Tensor, expected: Tensor, exact: bool) -> Difference:
    """UserError where the difference of outputs [N, ...] is larger than rounding (not `exact`: than a quantizer's steps)."""
    if outputs.shape != expected.shape:
        raise UserError(f"the file gives {list(outputs.shape)}, the model {list(expected.shape)}; nothing was written.")
    difference = (finite(outputs, "the exported network") - expected).double()
    relative = float(difference.norm() / expected.double().norm().clamp_min(1e-6))
    limit = Runtime.tolerance if exact else GROSS
    if not relative <= limit:
        raise UserError(
            f"the exported network differs from the model by {relative:.2g} (relative), above {limit:g}; nothing "
            "was written: try the other format, and report the layer that differs."
        )
    agreement = 100 * float((outputs.argmax(1) == expected.argmax(1)).double().mean()) if outputs.dim() == 2 else None
    return Difference(float(difference.abs().max()), relative, agreement)
