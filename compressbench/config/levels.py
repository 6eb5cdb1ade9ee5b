"""Levels: the strength of compression that a setting declares, and its label.

Settings of one level are compared with each other. Labels, headings and the names in the tables' column `level` come from here,
and are never read out of the name of a setting. No torch here: the plan and the report read it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator


class Kind(NamedTuple):
    """A quantity that measures the strength of compression.

    Attributes:
        symbol, joint: of names: the symbol, then the numbers with the joint between them.
        label: in words, beside a variant; `alone`: in words that stand alone; `second`: behind another level (default: label).
        neutral: the number that leaves a network as it is.
        length: how many numbers it has; None: any.
        share: whether the numbers are fractions of a whole, which words give in per cent.
    """

    symbol: str
    label: str
    alone: str
    neutral: float | None = None
    length: int | None = 1
    joint: str = "_"
    share: bool = False
    second: str = ""


KINDS = {
    "sparsity": Kind("p", "{} %", "{} % sparsity", 0, share=True),
    "filters": Kind("f", "{} %", "{} % of the filters", 0, share=True),
    "macs_reduction": Kind("m", "MACs −{} %", "MACs −{} %", 0, share=True),
    "bits": Kind("w", "{} bit{s}", "{} bit{s}", 32, 2, joint="a"),  # of weights and of activations
    "weight_bits": Kind("w", "{}-bit weights", "{}-bit weights", 32, None, second="{} bit{s}"),  # of each kind of layer
    "activation_bits": Kind("a", "{}-bit activations", "{}-bit activations", 32),
    "shots": Kind("shots", "{} shot{s}", "{} shot{s}"),  # images of every new class
}


@dataclass(frozen=True)
class Level:
    """A strength of compression.

    Attributes:
        kind: one of KINDS, or `unchanged`, `point` (an operating point) or nothing.
        values: the numbers.
        name: short, for tables and files; equal exactly for what is compared with each other.
        label: in words, beside a variant: 90 %.
        alone: in words that stand alone: 90 % sparsity.
        second: in words behind those of another level.
    """

    kind: str
    values: tuple[float, ...]
    name: str
    label: str
    alone: str
    second: str


NONE = Level("", (), "", "", "no level", "")  # of settings that declare none
UNCHANGED = Level("unchanged", (), "unchanged", *["unchanged network"] * 3)


def level(kind: str, *values: float) -> Level:
    """The level of one kind. Raises ValueError for numbers that it cannot have."""
    about = KINDS[kind]
    if not all(isinstance(v, int | float) and 0 <= v <= (1 if about.share else v) for v in values):
        raise ValueError(
            f"the level {kind} needs {'fractions from 0 to 1' if about.share else 'numbers'}, got {values}"
        )
    if about.length not in (None, len(values)):
        raise ValueError(f"the level {kind} has {about.length} number(s), got {values}")
    numbers = [100 * v if about.share else v for v in values]
    name = about.symbol + about.joint.join(f"{n:g}" for n in numbers)
    text = "/".join(dict.fromkeys(f"{n:.3g}" for n in numbers))
    forms = (about.label, about.alone, about.second or about.label)
    return Level(kind, tuple(map(float, values)), name, *(f.format(text, s="" if text == "1" else "s") for f in forms))


def point(name: str, label: str) -> Level:
    """The level that is an operating point of a model."""
    return Level("point", (), name, label, label, label)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of level; known: {', '.join(KINDS)}")
    return kind


KindName = Annotated[str, AfterValidator(_known)]
Quantity = str | float  # the name of a hyper-parameter, or the number itself
Quantities = dict[KindName, Quantity | tuple[Quantity, ...]]


def sources(quantities: Quantities) -> Iterator[tuple[str, tuple[Quantity, ...]]]:
    """(kind, its quantities), in the declared order."""
    for kind, given in quantities.items():
        yield kind, given if isinstance(given, tuple) else (given,)


def levels(quantities: Quantities, hyperparameters: Mapping[str, Any]) -> tuple[Level, ...]:
    """What a setting says of each kind, in the declared order; the first one is its level.

    A quantity that the setting does not give, or gives as null, says nothing. Where all that is said leaves the network as it
    is, that is UNCHANGED. Raises ValueError for what is no level.
    """
    found, neutral = [], False
    for kind, given in sources(quantities):
        said: list[Any] = [hyperparameters.get(q) if isinstance(q, str) else q for q in given]
        numbers = [n for n in said if n is not None]
        if numbers and all(n == KINDS[kind].neutral for n in numbers):
            neutral = True
        elif numbers:
            found.append(level(kind, *numbers))
    return tuple(found) or ((UNCHANGED,) if neutral else ())


def words(levels: Sequence[Level], variant: str) -> str:
    """A setting in words: `restricted, 90 %`, but `4 bits, real images`; nothing where it has neither level nor variant."""
    return _joined(levels, [level.label for level in levels[:1]] + [level.second for level in levels[1:]], variant)


def variant_words(levels: Sequence[Level], variant: str) -> str:
    """The same without the first level, which is what the setting is compared at."""
    return _joined(levels, [level.second for level in levels[1:]], variant)


def _joined(levels: Sequence[Level], texts: list[str], variant: str) -> str:
    """A share follows the variant, any other quantity precedes it."""
    share = bool(levels) and levels[0].kind in KINDS and KINDS[levels[0].kind].share
    return ", ".join(filter(None, [variant, *texts] if share else [*texts, variant]))
