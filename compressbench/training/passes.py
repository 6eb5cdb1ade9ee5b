"""Forward and backward passes of a step: on the whole batch at once, or on parts of it."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.seeding import random_state, set_random_state
from compressbench.training.distributed import add_up, flat, parts_of, processes, unflat
from compressbench.training.hooks import State

Passes = Callable[[State, Callable[[Any], Tensor]], Tensor]
"""(state, batch -> loss) -> loss. Leaves the gradients in the parameters, which have none before."""


def whole(state: State, loss: Callable[[Any], Tensor]) -> Tensor:
    """One pass over the batch."""
    value = loss(state.batch)
    value.backward()
    return value


def passes(accumulate: int) -> Passes:
    """Those of a recipe: `accumulate` micro-batches in each of the processes that train together."""
    return whole if accumulate * processes() == 1 else Divided(accumulate, processes())


class Divided:
    """A pass over every part of a batch: loss and gradients are the mean over the parts, as one pass over all would give them.

    Batch normalization sees one part at a time. Every part starts from the network as the step has found it: what a forward
    pass writes to floating-point buffers, such as running statistics, becomes the mean over the parts. Random numbers are the
    same for every part, since they may decide on a structure (a subnet); a dropout mask then repeats itself in every part.

    N parts in one process, or one in each of N processes, are the same computation; to the bit for N = 2, since the order of
    larger sums is up to the all-reduce.

    Args:
        accumulate: parts in this process.
        processes: that train together.
    """

    def __init__(self, accumulate: int, processes: int) -> None:
        self.accumulate, self.processes = accumulate, processes

    def __call__(self, state: State, loss: Callable[[Any], Tensor]) -> Tensor:
        count = self.accumulate * self.processes
        start, total = Start(state.model, count, restored=self.accumulate > 1), torch.zeros(())
        for number, part in enumerate(parts_of(state.batch, self.accumulate)):
            if number > 0:
                start.restore()
            value = loss(part) / count
            value.backward()
            total = total + value.detach()
            start.add()
        if self.processes > 1:
            total = total.reshape(1)
            add_up([total, *gradients(state), *start.sums])
            total = total.squeeze()
        start.leave_mean()
        return total


def gradients(state: State) -> list[Tensor]:
    """Of everything that the model has or an optimizer steps, each once."""
    stepped = (p for optimizer in state.optimizers for group in optimizer.param_groups for p in group["params"])
    parameters = {id(p): p for p in (*state.model.parameters(), *stepped)}
    return [p.grad for p in parameters.values() if p.grad is not None]


class Start:
    """A network and torch's generators at the start of a step, and what the parts make of the floating-point buffers.

    sums: by type of number, the mean so far; and how many parts have written each entry, so that others keep all their bits.

    Args:
        parts: of the batch, in all processes.
        restored: whether `restore` will be called.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, parts: int, restored: bool) -> None:
        self.tensors = [*model.parameters(), *model.buffers()] if restored else []
        self.values, self.random = [tensor.clone() for tensor in self.tensors], random_state() if restored else {}
        self.parts = parts
        floating = sorted((b for b in model.buffers() if b.is_floating_point()), key=lambda b: str(b.dtype))
        self.buffers = [list(group) for _, group in groupby(floating, key=lambda b: b.dtype)]
        self.starts = [flat(buffers) for buffers in self.buffers]
        self.means = [torch.zeros_like(start) for start in self.starts]
        self.writes = [torch.zeros_like(start) for start in self.starts]

    @property
    def sums(self) -> list[Tensor]:
        return [*self.means, *self.writes]

    @torch.no_grad()
    def restore(self) -> None:
        """All as it was."""
        for tensor, value in zip(self.tensors, self.values, strict=True):
            tensor.copy_(value)
        set_random_state(self.random)

    @torch.no_grad()
    def add(self) -> None:
        """After the passes of a part."""
        for buffers, start, mean, writes in zip(self.buffers, self.starts, self.means, self.writes, strict=True):
            now = flat(buffers)
            mean += now / self.parts
            writes += now != start

    @torch.no_grad()
    def leave_mean(self) -> None:
        """After all parts."""
        for buffers, start, mean, writes in zip(self.buffers, self.starts, self.means, self.writes, strict=True):
            unflat(torch.where(writes > 0, mean, start), buffers)
