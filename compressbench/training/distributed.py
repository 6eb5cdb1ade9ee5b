"""Several processes that train one network: each has its share of every batch, and all of them the same weights.

After the backward passes of a step the gradients are summed over the processes, in one all-reduce; so masks, gates and
optimizers, which are functions of weights and gradients, are the same everywhere. torch's DistributedDataParallel does this
for one network that is called once in a step. A loss of the suite may call several networks, or one of them twice, and any
number of optimizers may step. What is lost is that DistributedDataParallel sums while the backward pass still runs.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, distributed

from compressbench.errors import UserError
from compressbench.training.hooks import Hook, State

Batches = Callable[[int], Sequence[Any]]
"""Step -> batch."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes -> what reads all bits of a number


def processes() -> int:
    """How many train together; 1 where this one trains alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which one of them this is, from 0. The first one alone writes files, logs and tracks."""
    return distributed.get_rank() if distributed.is_initialized() else 0


@runtime_checkable
class Rows(Protocol):
    """Batches of which some rows can be had without the work for the others."""

    batch_size: int

    def rows(self, rows: slice) -> Batches: ...


def shared(batches: Batches) -> Batches:
    """Step -> the rows of its batch that this process trains on; of image files it reads no others."""
    if (count := processes()) == 1:
        return batches
    if isinstance(batches, Rows):
        size = _part_size(batches.batch_size, count)
        return batches.rows(slice(rank() * size, (rank() + 1) * size))
    return lambda step: share(batches(step))


def share(batch: Sequence[Any]) -> Sequence[Any]:
    """The rows of a batch that this process trains on."""
    count = processes()
    return batch if count == 1 else parts_of(batch, count)[rank()]


def parts_of(batch: Sequence[Any], count: int) -> list[tuple[Tensor, ...]]:
    """Equal parts of a batch of tensors [B, ...], in the order of the rows.

    Raises:
        UserError: B is not divided by `count`, or something in the batch has not B rows.
    """
    rows = {len(part) if isinstance(part, Tensor) and part.dim() else 0 for part in batch}
    if len(rows) != 1 or 0 in rows:
        raise UserError(
            "the batches of this training cannot be divided: not all that is in them has a row for every image; "
            "leave out `accumulate` and `processes`."
        )
    size = _part_size(rows.pop(), count)
    return list(zip(*(part.split(size) for part in batch), strict=True))


def _part_size(size: int, count: int) -> int:
    """The rows of each of `count` equal parts of a batch."""
    if size % count:
        raise UserError(f"a batch of {size} cannot be divided into {count} equal parts; choose a multiple of {count}.")
    return size // count


@torch.no_grad()
def add_up(tensors: Iterable[Tensor]) -> None:
    """Put the sum over all processes in the place of every tensor. The tensors have the same shapes everywhere."""
    for _, group in groupby(sorted(tensors, key=_kind), key=_kind):
        own = list(group)
        vector = flat(own)
        distributed.all_reduce(vector)
        unflat(vector, own)


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tensor.device}"


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries of tensors of one type, in a new vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def unflat(vector: Tensor, tensors: Sequence[Tensor]) -> None:
    """The inverse of `flat`, in place."""
    for tensor, part in zip(tensors, vector.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class Agreement(Hook):
    """After the first step and every epoch: whether all processes have the same network, to the bit.

    They have not where a forward pass writes what depends on its part of the batch, and is no floating-point buffer.
    """

    def on_start(self, state: State) -> None:
        self._check(state)
        self.first = state.step

    def on_step_end(self, state: State) -> None:
        if state.step == self.first:
            self._check(state)

    def on_epoch_end(self, state: State) -> None:
        self._check(state)

    def _check(self, state: State) -> None:
        named = state.model.state_dict() | {"the random numbers": torch.get_rng_state()}
        sums = torch.stack([checksum(tensor) for tensor in named.values()]).to(next(state.model.parameters()).device)
        everywhere = [torch.empty_like(sums) for _ in range(processes())]
        distributed.all_gather(everywhere, sums)
        for name, values in zip(named, torch.stack(everywhere, 1).tolist(), strict=True):
            if len(set(values)) > 1:
                raise UserError(
                    f"the processes of this training disagree on {name} in epoch {state.epoch}: what it learns from depends on "
                    "more than sums over a batch; leave out `processes`."
                )


def checksum(tensor: Tensor) -> Tensor:
    """int64 scalar on the CPU: the sum of the bits of all entries, read as whole numbers, which no order of summing changes."""
    bits = tensor.detach().contiguous().flatten().view(INTEGERS[tensor.element_size()])
    return bits.sum(dtype=torch.int64).cpu()
