"""Networks of all families against one cost: the Pareto front over everything, baselines and the dense network included."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from compressbench.reporting.collect import Results
from compressbench.reporting.columns import METHOD, SETTING, STORED, Column, View, bullets, render
from compressbench.reporting.figures import BYTES, SPEEDUP, WORDS, Cost, log_axis, quality_floor, unit_of
from compressbench.reporting.frames import each
from compressbench.reporting.groups import FAMILIES, Group
from compressbench.reporting.labels import Label, place
from compressbench.reporting.style import PALETTE, new_figure, placeholder
from compressbench.reporting.text import NOTHING, interval, quantity

FRONTS = {"stored_bytes": "bytes", "bit_operations": "bit-operations"}  # cost -> in words
SIZES = {True: 4.5, False: 5.5}  # of the marker of a baseline, of a method


def on_front(cost: pd.Series, quality: pd.Series) -> pd.Series:
    """Which rows no other row beats by being as good and as cheap, and better or cheaper; none without a number."""
    q, c = quality.to_numpy(float), cost.to_numpy(float)
    as_good = (q[:, None] >= q) & (c[:, None] <= c)
    beaten = as_good & ((q[:, None] > q) | (c[:, None] < c))
    return pd.Series(~np.isnan(q) & ~np.isnan(c) & ~beaten.any(axis=0), index=cost.index)


def pareto(group: Group, summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of the comparison, the smallest first, with `family`, and `front`: the costs on whose front it lies."""
    if summary.empty:
        return summary
    table = summary.assign(family=[group.declarations[m].family for m in summary.method])
    marks = {words: on_front(table[cost], table.quality) for cost, words in FRONTS.items()}
    table["front"] = [", ".join(words for words, mark in marks.items() if mark[i]) for i in table.index]
    return table.sort_values(["stored_bytes", "quality"], ascending=[True, False], kind="stable", ignore_index=True)


SHOWN = (
    Column("family", "family", lambda row: FAMILIES[row.family], numeric=False),
    METHOD,
    SETTING,
    Column(
        "quality", lambda view: view.group.header, lambda r: interval(r.quality, r.quality_low, r.quality_high, r.n)
    ),
    STORED,
    Column("bit_operations", "bit-operations", lambda r: quantity(r.bit_operations)),
    Column(
        "front",
        "front",
        lambda r: r.front,
        note="`front`: no other network, baselines and the dense one included, is at least as good for as little of this cost, "
        "and better in one of them. Means over seeds: neighbours on it may differ by chance.",
        numeric=False,
    ),
)


def pareto_table(group: Group, summary: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """All networks of a group, the smallest first, and the Markdown."""
    table, heading = pareto(group, summary), f"## {group.title}, by stored bytes\n\n"
    if table.empty:
        return table, heading + NOTHING
    text = render(SHOWN, View(table, group))
    return table, f"{heading}{text.table}\n\n{bullets(text.notes)}"


def quality_by_family(group: Group, summary: pd.DataFrame, results: Results, cost: Cost) -> Figure:
    """A point per network in the colour of its family, hollow for baselines, the dense network as a star, and the front."""
    drawn = summary[summary[cost.column].notna() & summary.quality.notna()] if len(summary) else summary
    if drawn.empty or drawn.reference.all():
        missing = "no compressed model has " + ("a measured latency" if cost is SPEEDUP else "been evaluated")
        return placeholder(cost.title, group.title, missing)
    prefix, unit = ("", 1.0) if cost is SPEEDUP else unit_of(drawn[cost.column])
    floor = quality_floor(drawn.quality)
    left_out = int((drawn.quality < floor).sum())
    note = (
        f"{cost.hint} Means over seeds. Filled: methods; hollow: baselines; line and names: the Pareto front over everything."
        + (f" Below the axis: {left_out} networks, see the table." if left_out else "")
    )
    figure = new_figure(5.6, cost.title, group.title, note)
    axes = figure.add_subplot()
    table = drawn.assign(family=[group.declarations[m].family for m in drawn.method], x=drawn[cost.column] / unit)
    table = table[table.quality >= floor]
    palette = _palette()
    for row in each(table.sort_values("baseline", ascending=False)):
        axes.plot(row.x, row.quality, zorder=4 if row.family == "dense" else 3, **_marker(row, palette))
    front = _front(table, cost)
    axes.step(
        front.x, front.quality, where="pre" if cost is SPEEDUP else "post", color="#333333", lw=0.9, alpha=0.7, zorder=2
    )
    if cost is SPEEDUP:
        axes.axvline(1, color="#c9c9c9", lw=1, zorder=1)
        axes.set_xscale("log")
    else:
        log_axis(axes)
    axes.set_xlabel(cost.axis.format(prefix if cost is BYTES else WORDS.get(prefix)))
    axes.set_ylabel(group.quality)
    axes.margins(x=0.1, y=0.1)
    shown = [family for family in FAMILIES if family in set(table.family)]
    handles = [Line2D([], [], ls="none", **_handle(family, palette)) for family in shown]
    words = [FAMILIES[family] for family in shown]
    axes.legend(
        handles, words, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, handletextpad=0.2, borderaxespad=0.1
    )
    names = [Label(row.x, row.quality, _name(group, row), palette[row.family]) for row in each(front)]
    place(axes, names, table[["x", "quality"]].to_numpy(float))
    return figure


def _front(table: pd.DataFrame, cost: Cost) -> pd.DataFrame:
    """The rows on the front of a cost, or of a speed-up, in the order of the axis."""
    spent = -table.x if cost is SPEEDUP else table.x
    return table[on_front(spent, table.quality)].sort_values("x").drop_duplicates(["x", "quality"])


def _name(group: Group, row: Any) -> str:
    """The method and its setting, as short as they can be."""
    return row.series if row.family == "dense" else f"{group.short(row.method)}, {row.label}"


def _palette() -> dict[str, str]:
    """Family -> colour, the same in all groups: first those that compress classifiers; the dense network is black."""
    others = ("super_resolution", "adaptive", "incremental")
    families = sorted((family for family in FAMILIES if family != "dense"), key=lambda family: family in others)
    return {family: PALETTE[i % len(PALETTE)] for i, family in enumerate(families)} | {"dense": "black"}


def _marker(row: Any, palette: dict[str, str]) -> dict[str, Any]:
    if row.family == "dense":
        return _handle("dense", palette)
    return {
        **_handle(row.family, palette),
        "markersize": SIZES[row.baseline],
        "markerfacecolor": "none" if row.baseline else palette[row.family],
    }


def _handle(family: str, palette: dict[str, str]) -> dict[str, Any]:
    star = family == "dense"
    return {
        "marker": "*" if star else "o",
        "markersize": 10 if star else 5.5,
        "color": palette[family],
        "markeredgewidth": 1.0,
    }
