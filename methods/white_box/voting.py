"""The global vote: channels of all layers compete, and a keep rate falls until the FLOPs target is reached."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from compressbench import accounting
from compressbench.errors import UserError
from compressbench.models import Network
from compressbench.pruning.filters import Shape, Widths

FIRST_RATE, STEP = 0.9, 0.01

Cut = Callable[[Widths], float]
"""Widths by key -> the fraction of the dense FLOPs that is removed."""


@dataclass(frozen=True)
class RandomLayer:
    """A layer that does not vote: its channels are random. `width` of them, or the share that is left of the FLOPs."""

    key: str
    channels: int
    width: int | None = None

    def size(self, cut: float) -> int:
        """int(C (1 - cut)), the cut of the round before."""
        return max(1, int(self.channels * (1 - cut))) if self.width is None else self.width


@dataclass(frozen=True)
class Round:
    """One round of the vote: keep rate q, threshold τ, the widths and the fraction of the FLOPs that they remove."""

    rate: float
    threshold: float
    widths: Widths
    cut: float


@dataclass(frozen=True)
class Election:
    """The channels [kept], int64 ascending, of every layer that voted, and all rounds; the last one counts."""

    kept: dict[str, Tensor]
    rounds: list[Round] = field(repr=False)

    @property
    def last(self) -> Round:
        return self.rounds[-1]


def floor_width(channels: int, min_preserve: float) -> int:
    """The channels that a layer keeps at least: int(0.3 C), never none."""
    return max(1, int(min_preserve * channels))


def elected(scores: Tensor, threshold: float, min_preserve: float) -> Tensor:
    """Channels with a score >= threshold, or the best int(0.3 C) where those are fewer than 0.3 C; ascending."""
    chosen = (scores >= threshold).nonzero()[:, 0]
    if len(chosen) >= max(1.0, min_preserve * len(scores)):
        return chosen
    best = scores.argsort(descending=True, stable=True)
    return best[: floor_width(len(scores), min_preserve)].sort().values


def vote(
    scores: Mapping[str, Tensor],
    voters: Sequence[str],
    cut: Cut,
    target: float,
    min_preserve: float = 0.3,
    random_layer: RandomLayer | None = None,
) -> Election:
    """Lower the keep rate from 0.9 in steps of 0.01 until the widths cut the target.

    Args:
        scores: float [C] of every ranked mask. They share one ranking, pruned or not.
        voters: the keys of the layers that are pruned.
        cut: the removed fraction of the FLOPs at some widths.
        random_layer: the layer that gets its width from the round before.

    Raises:
        UserError: when the keep rate ends before the target is reached (all scores are equal).
    """
    ranked = torch.cat(list(scores.values())).sort(descending=True).values
    rounds: list[Round] = []
    kept: dict[str, Tensor] = {}
    removed, rate = 0.0, FIRST_RATE
    while removed < target:
        count = int(len(ranked) * rate)
        if count < 1:
            raise UserError(f"macs_reduction: the vote ends at {removed:.4f} before the target {target}; choose less.")
        threshold = float(ranked[count - 1])
        kept = {key: elected(scores[key], threshold, min_preserve) for key in voters}
        widths = {key: len(index) for key, index in kept.items()}
        if random_layer is not None:
            widths[random_layer.key] = random_layer.size(removed)
        removed = cut(widths)
        rounds.append(Round(rate, threshold, widths, removed))
        rate -= STEP  # accumulates its rounding errors, as in the authors' code
    return Election(kept, rounds)


def largest_cut(
    channels: Widths, cut: Cut, min_preserve: float = 0.3, random_layer: RandomLayer | None = None
) -> float:
    """The cut with every voter at its floor. A random layer follows the round before, hence the rounds."""
    floors = {key: floor_width(count, min_preserve) for key, count in channels.items()}
    best = 0.0
    while (reached := cut(floors | ({random_layer.key: random_layer.size(best)} if random_layer else {}))) > best:
        best = reached
    return best


class FlopsAtWidths:
    """The FLOPs of an architecture at other inner widths, from the counts at full width: no network is built.

    For the conventions that count nothing in activations. Each count is proportional to the channels that a layer
    writes, and in a dense convolution or linear layer also to those that it reads.
    """

    def __init__(self, network: Network, shape: Shape, convention: str) -> None:
        self.rows = accounting.layer_table(network, shape)
        self.count = accounting.CONVENTIONS[convention].count
        couplings = network.couplings()
        self.channels = {c.key: len(network.get_parameter(f"{c.producer}.weight")) for c in couplings}
        self.writes = {name: [c.key] for c in couplings for link in c.outputs for name in link if name}
        self.reads: dict[str, list[str]] = {}
        for coupling in couplings:
            for name in coupling.consumers:
                self.reads.setdefault(name, []).append(coupling.key)

    def __call__(self, widths: Widths) -> int:
        """FLOPs of one image; keys that `widths` leaves out keep their width."""
        return round(sum(self.count(self._narrowed(row, self.channels | widths)) for row in self.rows))

    def cut(self, widths: Widths) -> float:
        """The fraction of the full network's FLOPs that is removed."""
        return 1 - self(widths) / self({})

    def _narrowed(self, row: accounting.LayerCount, widths: Widths) -> accounting.LayerCount:
        read = self._share(self.reads.get("classifier" if row.kind == "global_pool" else row.name, []), widths)
        written = read if row.kind == "global_pool" else self._share(self.writes.get(row.name, []), widths)
        weights = round(row.weights * written * read)  # whole numbers but for the rounding of the shares
        return replace(
            row,
            inputs=round(row.inputs * read),
            outputs=round(row.outputs * written),
            weights=weights,
            kept_weights=weights,
            channel_pairs=round(row.channel_pairs * written * read),
        )

    def _share(self, keys: Sequence[str], widths: Widths) -> float:
        """How many of the channels of some couplings are left; 1 for channels of none."""
        return sum(widths[key] for key in keys) / sum(self.channels[key] for key in keys) if keys else 1.0
