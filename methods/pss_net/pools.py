"""The pools: the best structures so far of every budget, and sampling from them."""

import math

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.subnets import Subnet


def annealed(start: float, end: float, epoch: int, epochs: int) -> float:
    """start (end / start)^(e / E)."""
    return start * (end / start) ** (epoch / epochs)


def priorities(scores: Tensor, temperature: float) -> Tensor:
    """softmax(score / t) [M]; the maximum is subtracted before the exponential."""
    return torch.softmax(scores / temperature, 0)


class Pools(nn.Module):
    """At most `capacity` structures with their scores for every one of `count` budgets; all state is in buffers.

    A structure is known by its exact resolution and multipliers, not by its channels.
    """

    structures: Tensor
    """float64 [count, capacity, 1 + stages]: resolution and multipliers."""
    scores: Tensor
    """float64 [count, capacity], -inf where there is no structure."""
    sizes: Tensor
    """int64 [count]."""

    def __init__(self, count: int, capacity: int, stages: int, decay: float):
        super().__init__()
        self.capacity, self.decay = capacity, decay
        self.register_buffer("structures", torch.zeros(count, capacity, 1 + stages, dtype=torch.float64))
        self.register_buffer("scores", torch.full((count, capacity), float("-inf"), dtype=torch.float64))
        self.register_buffer("sizes", torch.zeros(count, dtype=torch.long))

    def is_full(self, pool: int) -> bool:
        """Whether the pool has all the structures that it can hold."""
        return int(self.sizes[pool]) >= self.capacity

    def draw(self, pool: int, temperature: float) -> Subnet:
        """A structure of the pool, better-scored ones more often."""
        own = priorities(self.scores[pool, : self.sizes[pool]], temperature)
        return self.structure(pool, int(torch.multinomial(own.cpu(), 1)))

    def update(self, pool: int, subnet: Subnet, value: float) -> None:
        """The score of a new structure, or λ score + (1 - λ) value of a known one; the worst leaves a pool that is too full."""
        if not math.isfinite(value):
            raise UserError(f"pss_net: the score of a structure is {value}; lower the learning rate.")
        key = torch.tensor([subnet.resolution, *subnet.widths], dtype=torch.float64, device=self.structures.device)
        size = int(self.sizes[pool])
        known = (self.structures[pool, :size] == key).all(1).nonzero()
        if len(known):
            slot = int(known[0])
            value = self.decay * float(self.scores[pool, slot]) + (1 - self.decay) * value
        elif size < self.capacity:
            slot = size
            self.sizes[pool] += 1
        else:
            slot = int(self.scores[pool].argmin())
            if value < self.scores[pool, slot]:
                return
        self.structures[pool, slot], self.scores[pool, slot] = key, value

    def structure(self, pool: int, slot: int) -> Subnet:
        """The structure in a slot."""
        resolution, *widths = self.structures[pool, slot].tolist()
        return Subnet(int(resolution), tuple(widths))

    def best(self, pool: int) -> Subnet:
        """The structure with the highest score."""
        return self.structure(pool, int(self.scores[pool].argmax()))

    def worst(self, pool: int) -> Subnet:
        """The structure with the lowest score among those kept."""
        return self.structure(pool, int(self.scores[pool, : self.sizes[pool]].argmin()))
