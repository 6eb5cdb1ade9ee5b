"""Reads image files beside the training, with PyTorch's DataLoader: worker processes, pinned memory, a few batches ahead.

What is read is a pure function of its number: how many workers there are changes no bit.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from compressbench.errors import UserError


@dataclass(frozen=True)
class Loader:
    """How files are read: by how many processes (0: in this one), and whether into memory that a GPU copies at once."""

    workers: int = 0
    pin_memory: bool = False

    def map(self, work: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
        """`work(n)` for every n in its order. UserError as `work` raises it."""
        return map(_unless_refused, self._map(_Mapped(work), numbers))

    def _map(self, mapped: "_Mapped", numbers: Iterable[int]) -> Iterator[Any]:
        if not self.workers:
            return map(mapped.__getitem__, numbers)
        return iter(
            torch.utils.data.DataLoader(
                mapped,
                sampler=numbers,
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                pin_memory=self.pin_memory,
                generator=torch.Generator(),  # or the start of the workers would draw from that of the training
            )
        )


HERE = Loader()


class _Mapped(torch.utils.data.Dataset[Any]):
    """A function as a data set. What the user has to mend is a value here: a worker's exception arrives as a traceback."""

    def __init__(self, work: Callable[[int], Any]) -> None:
        self.work = work

    def __getitem__(self, number: int) -> Any:
        try:
            return self.work(number)
        except UserError as error:
            return error


def _as_it_is(value: Any) -> Any:
    return value


def _unless_refused(value: Any) -> Any:
    if isinstance(value, UserError):
        raise value
    return value


class Ahead:
    """`work(n)` for numbers that mostly follow each other: from the second one in a row on, workers read ahead."""

    def __init__(self, work: Callable[[int], Any], loader: Loader) -> None:
        self._work, self._loader = work, loader
        self._last: int | None = None
        self._coming: Iterator[Any] | None = None

    def __call__(self, number: int) -> Any:
        """The same, whatever was asked for before."""
        if not self._loader.workers or number == self._last:
            return self._work(number)
        follows, self._last = self._last is not None and number == self._last + 1, number
        if not follows:
            self._coming = None
            return self._work(number)
        if self._coming is None:
            self._coming = self._loader.map(self._work, Endless(number))
        return next(self._coming)


class Endless:
    """first, first + 1, ... as often as one asks."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first)
