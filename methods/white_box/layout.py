"""Which convolutions of a network have masks, where those act, which layers vote and which has random channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from compressbench.errors import UserError
from compressbench.models import Coupling, Network
from compressbench.pruning.filters import couplings_like, inner_keys, producer_weights
from methods.white_box.voting import FlopsAtWidths, RandomLayer, largest_cut


@dataclass(frozen=True)
class Layout:
    """The roles of a network's channels in the method."""

    masked: dict[str, Coupling]
    """The single convolutions whose masks scale their channels."""
    outer: dict[str, str]
    """The convolutions of residual sums whose masks are never used, each with its batch norm."""
    random_layer: RandomLayer | None
    """The layer whose channels are chosen at random."""

    @property
    def names(self) -> list[str]:
        """The convolutions with a mask."""
        return [*self.masked, *self.outer]

    @property
    def voters(self) -> list[str]:
        """The keys of the layers that the vote prunes."""
        return [key for key in self.masked if self.random_layer is None or key != self.random_layer.key]

    def ranked(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scores [C] that share one ranking: those of the voters, and of the outer masks."""
        return {name: scores[name] for name in [*self.voters, *self.outer]}

    def sites(self, before_norm: Sequence[str]) -> dict[str, str]:
        """Key -> the module whose output the mask scales: the activation, or the convolution where a pattern matches.

        UserError where there is no such module.
        """
        found = {}
        for key, coupling in self.masked.items():
            site = coupling.producer if any(fnmatchcase(key, p) for p in before_norm) else coupling.activation
            if site is None:
                raise UserError(
                    f"white_box scales what an activation leaves, but that of {key} is no module; make it an nn.ReLU, or let a "
                    "pattern of before_norm match."
                )
            found[key] = site
        return found

    def largest_cut(self, network: Network, flops: FlopsAtWidths, min_preserve: float) -> float:
        """The fraction of the FLOPs that the vote can remove at most."""
        channels = {key: len(weight) for key, weight in producer_weights(network, self.voters).items()}
        return largest_cut(channels, flops.cut, min_preserve, self.random_layer)


def lay_out(
    network: Network, layers: Sequence[str], outer: bool, draw_last: bool, last_width: int | None = None
) -> Layout:
    """Masks for the single convolutions that a shell pattern matches and, with `outer`, for those of residual sums."""
    inner = set(inner_keys(network))
    masked = {key: coupling for key, coupling in couplings_like(network, layers).items() if key in inner}
    sums = [c for c in network.couplings() if c.group is not None] if outer else []
    norms = {conv: str(norm) for c in sums for conv, norm in ((c.producer, c.norm), *c.added)}
    return Layout(masked, norms, last_layer(network, last_width) if draw_last else None)


def last_layer(network: Network, width: int | None) -> RandomLayer | None:
    """The single convolution that only the classifier reads; none where that reads a residual sum."""
    for coupling in network.inner_couplings():
        if coupling.consumers == ("classifier",):
            channels = len(network.get_parameter(f"{coupling.producer}.weight"))
            return RandomLayer(coupling.key, channels, None if width is None else min(width, channels))
    return None
