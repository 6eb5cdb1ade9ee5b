"""Few-shot class-incremental learning: sessions as a view of classification data.

Session 0, the base, has all training images of many classes; every later one brings a few new classes with a few images each.
Labels are counted in the order in which the classes appear.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressbench.data.classification import AnySplit, ClassificationData
from compressbench.data.datasets import Dataset, DatasetInfo, Protocol
from compressbench.errors import UserError
from compressbench.seeding import generator


@dataclass(frozen=True)
class ClassIncrementalData(ClassificationData):
    """`train` and `validation` have the classes of the base session, `test` all, labelled in order of appearance.

    few_shot: the training images of the later sessions, by draw and session - 1.
    """

    protocol: Protocol
    few_shot: tuple[tuple[AnySplit, ...], ...]

    @property
    def sessions(self) -> int:
        """Their number, the base among them."""
        return len(self.protocol.session_len)

    @property
    def draws(self) -> int:
        """How many sets of shots there are."""
        return len(self.few_shot)

    def shots(self, session: int, draw: int) -> AnySplit:
        """All that a later session trains on: no image of an earlier one is kept."""
        return self.few_shot[draw][session - 1]


def in_sessions_of(source: Dataset, about: DatasetInfo, protocol: Protocol) -> Dataset:
    """A data set in sessions: order and shots are drawn where nobody published them."""

    def load_sessions(folder: Path, limit: int | None, seed: int, **options: Any) -> ClassIncrementalData:
        return in_sessions(source.load(folder, limit, **options), protocol, seed, about)

    return replace(source, info=about, load=load_sessions, fetch=None, protocol=protocol)


def in_sessions(source: ClassificationData, protocol: Protocol, seed: int, about: DatasetInfo) -> ClassIncrementalData:
    """The view. UserError where the sessions do not cover the classes, or a class has too few images."""
    classes = about.classes
    if sum(protocol.session_len) != classes:
        raise UserError(
            f"session_len of {about.name} sums to {sum(protocol.session_len)}, but there are {classes} classes; correct it."
        )
    order = torch.randperm(classes, generator=generator(seed, "class order"))
    order = order if protocol.shuffled else torch.arange(classes)
    place = torch.empty_like(order)
    place[order] = torch.arange(classes)
    train, validation, test = (
        part.relabelled(place[part.labels]) for part in (source.train, source.validation, source.test)
    )
    ends = list(accumulate(protocol.session_len))
    sessions = [range(start, end) for start, end in pairwise(ends)]
    if protocol.few_shot is None:
        chosen = [
            [_drawn(train, new, protocol.shots, seed, draw) for new in sessions] for draw in range(protocol.draws)
        ]
    else:
        chosen = [[_published(train, new, row) for new, row in zip(sessions, protocol.few_shot, strict=True)]]
    few_shot = tuple(tuple(train.take(index) for index in rows) for rows in chosen)
    base, held_out = (part.take(torch.nonzero(part.labels < ends[0]).flatten()) for part in (train, validation))
    return ClassIncrementalData(about, base, held_out, test, protocol, few_shot)


def _drawn(train: AnySplit, classes: Sequence[int], shots: int, seed: int, draw: int) -> Tensor:
    """`shots` positions for each class, by class."""
    found = []
    for label in classes:
        own = torch.nonzero(train.labels == label).flatten()
        if len(own) < shots:
            raise UserError(
                f"a session needs {shots} images of class {label} (in order of appearance), there are {len(own)}; "
                "use more training images or fewer shots."
            )
        found.append(own[torch.randperm(len(own), generator=generator(seed, "shots", draw, label))[:shots]])
    return torch.cat(found)


def _published(train: AnySplit, classes: Sequence[int], row: Sequence[int]) -> Tensor:
    """The published positions, checked: equally many of every class, and of no other."""
    index = torch.tensor(row)
    if int(index.max()) >= len(train):
        raise UserError(
            f"the published shots need all training images, not the first {len(train)}; leave out `images`."
        )
    counts = torch.bincount(train.labels[index], minlength=max(classes) + 1)[list(classes)]
    if not (counts == len(row) // len(classes)).all():
        raise UserError(
            f"the published shots of the classes {min(classes)} to {max(classes)} show other classes here; "
            "take the original order of the data set."
        )
    return index
