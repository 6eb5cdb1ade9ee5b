"""Which blocks of a row stay: importance, schedule, and the mask from both (arXiv 2310.06218). Functions without state.

A layer's weight [c_out, c_in, k, k] is a matrix of blocks: rows r = 0 ... c_out / N - 1 of N consecutive output kernels,
columns c = 0 ... c_in - 1. Every function here works on all rows at once, and no row sees another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressbench.errors import UserError
from compressbench.pruning.blocks import expand_blocks

Criterion = Literal["bpar", "l1", "l2"]
Ramp = Literal["cubic", "linear", "cos", "exp"]
Sampler = Callable[[Tensor, int], Tensor]
"""(probabilities [rows, P], R) -> R distinct positions in each row, int64 [rows, R]."""

TINY = 1e-12
KERNELS = ((1, 1), (3, 3))


@dataclass(frozen=True)
class Schedule:
    """How many blocks of a row are candidates, and how many of them return, in the epochs e = 0 ... epochs - 1.

    sparsity: p, the final fraction. start, end: a and b, 0 <= a <= b < epochs. a = b is a step at a.
    """

    sparsity: float
    start: int
    end: int
    epochs: int
    ramp: Ramp = "cubic"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be at least 0 and less than 1, not {self.sparsity}")
        if not 0 <= self.start <= self.end < self.epochs:
            raise ValueError(
                f"the ramp from {self.start} to {self.end} must lie within the run's {self.epochs} mask updates and end "
                "before the last one; change start, end or slices"
            )

    def fraction(self, e: int) -> float:
        """q(e): 0 up to a, 1 from b on. The cubic ramp is slow first and fast last."""
        if e >= self.end:
            return 1.0
        if e <= self.start:
            return 0.0
        u = (e - self.start) / (self.end - self.start)
        if self.ramp == "cubic":
            return u**3
        if self.ramp == "cos":
            return 1 - math.cos(math.pi / 2 * u)
        if self.ramp == "exp":
            return (1 - math.exp(-0.05 * (e - self.start))) / (1 - math.exp(-0.05 * (self.end - self.start - 1)))
        return u

    def candidates(self, c_in: int) -> int:
        """P = floor(p c_in), in double precision."""
        return math.floor(self.sparsity * c_in)

    def returning(self, c_in: int, e: int) -> int:
        """R(e) = floor((p - q(e) p) c_in), in double precision: how many of the P candidates stay after all."""
        return math.floor((self.sparsity - self.fraction(e) * self.sparsity) * c_in)


def check_kernel(weight: Tensor, name: str = "weight") -> None:
    """UserError, naming the layer, unless it is a 1x1 or 3x3 convolution."""
    if weight.shape[2:] not in KERNELS:
        raise UserError(
            f"{name}: blocks are defined for kernels of 1x1 and 3x3, not {list(weight.shape[2:])}; add the layer to `dense`."
        )


def block_matrix(weight: Tensor, n: int) -> Tensor:
    """weight [c_out, c_in, k, k] -> b [rows, c_in, N k k]: vectors by output kernel, then kernel row, then column."""
    c_out, c_in = weight.shape[:2]
    return weight.detach().reshape(c_out // n, n, c_in, -1).transpose(1, 2).flatten(2)


def angular_redundancy(blocks: Tensor) -> Tensor:
    """a[r, c] = sum_j |cos(b[r, c], b[r, j])|, itself included: b [rows, c_in, d] -> [rows, c_in]; 0 for dead blocks."""
    unit = blocks / blocks.norm(dim=2, keepdim=True).clamp(min=TINY)
    return torch.stack([(row @ row.t()).abs().sum(1) for row in unit])  # one row at a time: c_in^2 numbers


def bpar(blocks: Tensor, alpha: float = 1.0) -> Tensor:
    """s = l - alpha A: the share of the row's l1 norm less that of its angular redundancy; -alpha for a dead block.

    b [rows, c_in, d] -> [rows, c_in].
    """
    norm = blocks.abs().sum(2)
    share = norm / norm.sum(1, keepdim=True).clamp(min=TINY)
    redundancy = angular_redundancy(blocks)
    redundancy = redundancy / redundancy.sum(1, keepdim=True).clamp(min=TINY)
    return share - alpha * redundancy.masked_fill(redundancy == 0, 1.0)


def importance(weight: Tensor, n: int, criterion: Criterion = "bpar", alpha: float = 1.0) -> Tensor:
    """The score of every block: weight [c_out, c_in, k, k], masked or not -> [rows, c_in]."""
    blocks = block_matrix(weight, n)
    if criterion == "bpar":
        return bpar(blocks, alpha)
    return blocks.abs().sum(2) if criterion == "l1" else blocks.norm(dim=2)


def lowest(scores: Tensor, count: int) -> Tensor:
    """Columns of the `count` lowest scores of every row, ascending, ties in channel order: int64 [rows, count]."""
    return scores.argsort(dim=1, stable=True)[:, :count]


def probabilities(candidates: Tensor, temperature: float = 1.0) -> Tensor:
    """pi = softmax(v / |v| / tau) of the candidates' scores v [rows, P], row by row."""
    unit = candidates / candidates.norm(dim=1, keepdim=True).clamp(min=TINY)
    return (unit / temperature).softmax(1)


def sampler(generator: torch.Generator) -> Sampler:
    """Draws without replacement, from the CPU generator whatever the scores' device."""

    def draw(pi: Tensor, count: int) -> Tensor:
        return torch.multinomial(pi.cpu(), count, replacement=False, generator=generator).to(pi.device)

    return draw


def most_important(pi: Tensor, count: int) -> Tensor:
    """The control without chance: the last `count` positions, the candidates of highest score."""
    positions = torch.arange(pi.shape[1] - count, pi.shape[1], device=pi.device)
    return positions.expand(len(pi), count)


def kept_blocks(low: Tensor, chosen: Tensor, c_in: int) -> Tensor:
    """m: all but the candidates `low` [rows, P], with those at the positions `chosen` [rows, R] put back.

    -> bool [rows, c_in] with c_in - P + R blocks in every row.
    """
    kept = torch.ones(len(low), c_in, dtype=torch.bool, device=low.device)
    return kept.scatter(1, low, False).scatter(1, low.gather(1, chosen), True)


def update(scores: Tensor, pruned: int, returned: int, draw: Sampler, temperature: float = 1.0) -> Tensor:
    """scores [rows, c_in] -> bool [rows, c_in]: the `pruned` lowest of each row go, but for `returned` sampled ones."""
    low = lowest(scores, pruned)
    if returned == 0:
        return kept_blocks(low, low[:, :0], scores.shape[1])
    return kept_blocks(low, draw(probabilities(scores.gather(1, low), temperature), returned), scores.shape[1])


def expand(kept: Tensor, shape: torch.Size, n: int) -> Tensor:
    """kept bool [rows, c_in] -> mask bool of the weight's shape [c_out, c_in, k, k]."""
    return expand_blocks(kept.t().flatten(), shape, n)


def imbalance(kept: Tensor, threads: int | None = None) -> float:
    """The most work of a thread over the mean, when threads share the rows of kept bool [rows, c_in] in order.

    Default: a thread for every row, max / mean of the row lengths. 1 for rows of equal length.
    """
    work = torch.stack([part.sum() for part in kept.tensor_split(threads or len(kept))]).double()
    return float(work.max() / work.mean())
