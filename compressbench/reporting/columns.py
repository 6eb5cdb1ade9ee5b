"""A table is a list of columns. A new column is one entry: its header, the text of its cells, its note, when it is shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import pandas as pd

from compressbench.reporting.frames import each
from compressbench.reporting.groups import Group, is_number
from compressbench.reporting.text import DASH, markdown_table, number, quantity


class View(NamedTuple):
    """What a table shows: its rows, and the `Group` that they belong to (None where they belong to several)."""

    rows: pd.DataFrame
    group: Any = None


Words = str | Callable[[View], str]


@dataclass(frozen=True)
class Column:
    """One column of a Markdown table.

    key: what the code calls it.
    text: the cell of a row of `View.rows`, a named tuple.
    note: a sentence below the table; the empty one is left out.
    shown: whether the table has the column, and its note.
    once: cells that are equal in every row are said below the table instead, whether the column is shown or not.
    numeric: whether cells are right-aligned.
    """

    key: str
    header: Words
    text: Callable[[Any], str]
    note: Words = ""
    shown: Callable[[View], bool] = lambda view: True
    once: bool = False
    numeric: bool = True


class Rendered(NamedTuple):
    """A table in Markdown, and the notes below it."""

    table: str
    notes: list[str]


def render(columns: Sequence[Column], view: View, notes: Sequence[str] = ()) -> Rendered:
    """The rows in the columns that are shown.

    notes: keys of the columns whose notes come first, in this order; the others follow in the order of the columns.
    """
    shown = [c for c in columns if c.shown(view)]
    cells = {c.key: [c.text(row) for row in each(view.rows)] for c in columns if c.once or c in shown}
    equal = [c for c in columns if c.once and len(set(cells[c.key])) == 1]
    visible = [c for c in shown if c not in equal]
    body = pd.DataFrame({_said(c.header, view): cells[c.key] for c in visible})
    table = markdown_table(body, [_said(c.header, view) for c in visible if c.numeric])
    place = {key: position for position, key in enumerate(notes)}
    said = [_said(c.note, view) for c in sorted(shown, key=lambda c: place.get(c.key, len(place)))]
    if equal:
        values = ", ".join(f"{_said(c.header, view)} {cells[c.key][0]}" for c in equal)
        said.append(f"The same in every row: {values}.")
    return Rendered(table, [note for note in said if note])


def _said(words: Words, view: View) -> str:
    return words if isinstance(words, str) else words(view)


def bullets(notes: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {note}" for note in notes)


def named(table: pd.DataFrame, group: Group) -> pd.DataFrame:
    """With what METHOD, TITLE and SETTING show, of a table with the columns `method` and `setting`."""
    return table.assign(
        title=[group.short(m) for m in table.method],
        label=[group.label(m, s) for m, s in zip(table.method, table.setting, strict=True)],
        baseline=[group.is_baseline(m) for m in table.method],
    )


def plain(key: str, header: str = "") -> Column:
    """A column of text as the rows have it."""
    return Column(key, header or key, attrgetter(key), numeric=False)


def change(row: Any) -> str:
    """The paired change of the quality; a dash for the dense network itself."""
    if row.series == row.against or not is_number(row.change):
        return DASH
    half = (row.change_high - row.change_low) / 2
    return number(row.change, sign=True) + (f" ± {number(half)}" if is_number(half) else "")


def _stored(row: Any) -> str:
    text = quantity(row.stored_bytes)
    return f"{text}B" if is_number(row.stored_bytes) and row.stored_bytes >= 1000 else text


def _speedup(row: Any) -> str:
    if not is_number(row.speedup):
        return DASH
    return f"{number(row.speedup)} [{number(row.speedup_low)}, {number(row.speedup_high)}]"


def over_processes(counts: "pd.Series[float]") -> str:
    """What intervals of speed-ups cover, behind the words "of the ratio"; `counts`: how many processes measured each."""
    several = sorted({int(n) for n in counts.dropna()})
    if not several or several == [1]:
        return " in one process"
    return f", from the lowest to the highest of {several[-1]} processes"


def measured_on(processors: "pd.Series[str]") -> str:
    """A sentence on the processors that measured, behind another one; nothing where they are not known."""
    known = sorted({str(cpu) for cpu in processors.dropna()} - {""})
    return f" Measured on {' and '.join(known)}." if known else ""


TITLE = plain("title", "method")
METHOD = Column("method", "method", lambda r: r.title if r.baseline else f"**{r.title}**", numeric=False)
"""Methods bold, baselines plain."""
SETTING = plain("label", "setting")
STORED = Column("stored", "stored", _stored)
MS = Column("ms", "ms", lambda r: number(r.latency_ms, 3))
SPEEDUP = Column("speedup", "speed-up", _speedup)
