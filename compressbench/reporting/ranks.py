"""How methods rank among those that they were compared with, and how sure that is.

Methods meet in cells: a level on a pair of data set and network. In each, a method has its first setting at that level, so that
no variant is picked by its test quality. The bootstrap resamples pairs (levels of one network are no independent evidence), and
within each pair seeds, the same ones for all methods.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from compressbench.reporting.collect import Results
from compressbench.reporting.columns import Column, View, render
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import FAMILIES, Group, is_number
from compressbench.reporting.style import GREY, PALETTE, new_figure, placeholder
from compressbench.reporting.text import NOTHING, number

REPLICATES = 2000
LEVEL = 0.95
COLUMNS = [
    "method", "title", "family", "baseline", "rank", "rank_low", "rank_high", "beaten", "beaten_low", "beaten_high", "rivals",
    "cells", "pairs",
]  # fmt: skip
TITLE = "Share of the rivals that a method beats"
Array = npt.NDArray[np.float64]


class Meeting(NamedTuple):
    """What one pair says: methods, and [cells, methods, seeds] qualities, NaN where a method does not run at the level."""

    methods: list[str]
    quality: Array


class Sums(NamedTuple):
    """Summed over the cells of one pair, [methods, replicates]: ranks (1 is best) and shares beaten; [methods] cells."""

    rank: Array
    beaten: Array
    cells: Array


def meetings(groups: Sequence[Group], results: Results) -> list[Meeting]:
    """One per group in which at least two methods share a level; the dense network is no method."""
    found = (_meeting(group, of_group(results.runs, group)) for group in groups)
    return [meeting for meeting in found if len(meeting.quality)]


def _meeting(group: Group, runs: pd.DataFrame) -> Meeting:
    first: dict[str, dict[str, str]] = {}  # level -> method -> its first setting
    methods = [m for m in group.methods if not group.is_dense(m)]
    for method in methods:
        for setting in group.settings[method]:
            if name := group.levels[method, setting].name:
                first.setdefault(name, {}).setdefault(method, setting)
    table = runs.pivot_table(index=["method", "setting"], columns="seed", values="quality")
    keys = [[(m, own.get(m, "")) for m in methods] for own in first.values()]
    cells = np.array([table.reindex(pd.MultiIndex.from_tuples(cell)).to_numpy(float) for cell in keys])
    if not len(cells) or not cells.size:
        return Meeting(methods, np.empty((0, len(methods), 0)))
    complete = np.where(np.isnan(cells).any(axis=2, keepdims=True), np.nan, cells)  # else seeds would not be paired
    return Meeting(methods, complete[(~np.isnan(complete[:, :, 0])).sum(axis=1) > 1])


def ranks(found: Sequence[Meeting], replicates: int = REPLICATES) -> pd.DataFrame:
    """method -> mean `rank` and share `beaten` of its rivals over all cells where it meets some, with 95 % intervals.

    `rivals`: how many it meets in a cell, on average. Intervals are NaN where a method runs on one pair with one seed.
    """
    rng = np.random.default_rng(0)
    names = list(dict.fromkeys(name for meeting in found for name in meeting.methods))
    picks = rng.integers(len(found), size=(replicates, len(found))) if found else np.empty((0, 0), int)
    weights = np.stack([(picks == p).sum(axis=1) for p in range(len(found))]) if found else np.empty((0, 0))
    totals = {name: np.zeros(4) for name in names}  # rank, share beaten, cells, rivals
    drawn_totals = {name: np.zeros((3, replicates)) for name in names}  # the first three of every replicate
    pairs = dict.fromkeys(names, 0)
    varied: set[str] = set()  # what the bootstrap can draw in several ways
    for meeting, weight in zip(found, weights, strict=True):
        seeds = meeting.quality.shape[2]
        drawn = _sums(meeting.quality[:, :, rng.integers(seeds, size=(replicates, seeds))].mean(axis=3))
        mean = _sums(meeting.quality.mean(axis=2)[:, :, None])
        rivals = _rivals(meeting.quality)
        for m, name in enumerate(meeting.methods):
            totals[name] += (mean.rank[m, 0], mean.beaten[m, 0], mean.cells[m], rivals[m])
            drawn_totals[name] += weight * np.stack(
                [drawn.rank[m], drawn.beaten[m], np.full(replicates, drawn.cells[m])]
            )
            pairs[name] += int(mean.cells[m] > 0)
            varied |= {name} if seeds > 1 or pairs[name] > 1 else set()
    rows = [
        _row(name, totals[name], drawn_totals[name], pairs[name], name in varied) for name in names if totals[name][2]
    ]
    return pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in ("title", "family", "baseline")])


def _row(name: str, total: Array, drawn: Array, pairs: int, varied: bool) -> dict[str, Any]:
    rank, beaten, cells, rivals = total
    row: dict[str, Any] = {"method": name, "rank": rank / cells, "beaten": beaten / cells}
    row |= {"rivals": rivals / cells, "cells": int(cells), "pairs": pairs}
    met = drawn[2] > 0
    for key, sums in zip(("rank", "beaten"), drawn[:2], strict=True):
        ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
        low, high = np.quantile(sums[met] / drawn[2][met], ends) if varied else (np.nan, np.nan)
        row |= {f"{key}_low": low, f"{key}_high": high}
    return row


def _sums(quality: Array) -> Sums:
    """Of qualities [cells, methods, replicates]; methods that tie share their ranks."""
    mine, theirs = quality[:, :, None], quality[:, None]
    better = (theirs > mine).sum(axis=2) + 0.5 * ((theirs == mine).sum(axis=2) - 1)
    runs = ~np.isnan(quality)
    rivals = runs.sum(axis=1, keepdims=True) - 1
    rank = np.where(runs, 1 + better, 0).sum(axis=0)
    beaten = np.where(runs, 1 - better / np.maximum(rivals, 1), 0).sum(axis=0)
    return Sums(rank, beaten, runs[:, :, 0].sum(axis=0).astype(float))


def _rivals(quality: Array) -> Array:
    """How many rivals each method meets, summed over cells."""
    runs = ~np.isnan(quality[:, :, 0])
    return np.where(runs, runs.sum(axis=1, keepdims=True) - 1, 0).sum(axis=0).astype(float)


def named_ranks(groups: Sequence[Group], results: Results) -> pd.DataFrame:
    """`ranks` with `title`, `family` and `baseline`: by family, the best one first."""
    table = ranks(meetings(groups, results))
    of = {method: group for group in groups for method in group.methods}
    table["title"] = [of[m].short(m) for m in table.method]
    table["family"] = [of[m].declarations[m].family for m in table.method]
    table["baseline"] = [of[m].is_baseline(m) for m in table.method]
    place = table.family.map(list(FAMILIES).index)
    order = table.assign(place=place).sort_values(["place", "beaten"], ascending=[True, False], kind="stable").index
    return table.loc[order, COLUMNS].reset_index(drop=True)


def _with_interval(value: float, low: float, high: float, digits: int, unit: str = "") -> str:
    ends = f" [{number(low, digits)}, {number(high, digits)}]" if is_number(low) else ""
    return f"{number(value, digits)}{ends}{unit}"


SHOWN = (
    Column("family", "family", lambda row: FAMILIES[row.family], numeric=False),
    Column("method", "method", lambda row: row.title if row.baseline else f"**{row.title}**", numeric=False),
    Column(
        "rank",
        "mean rank",
        lambda row: f"{_with_interval(row.rank, row.rank_low, row.rank_high, 1)} of {number(row.rivals + 1, 1)}",
        note="`mean rank`: by quality among the methods and baselines that run at the same level on the same network, each at "
        "its first setting there; 1 is the best, ties share their ranks; of how many, on average.",
    ),
    Column(
        "beaten",
        "rivals beaten",
        lambda row: _with_interval(100 * row.beaten, 100 * row.beaten_low, 100 * row.beaten_high, 0, " %"),
        note="Brackets: 95 % bootstrap interval over pairs of network and data set, and over seeds within each; where one pair "
        "is all that a method runs on, over seeds alone.",
    ),
    Column("pairs", "pairs", lambda row: str(row.pairs)),
    Column("cells", "levels", lambda row: str(row.cells), note="Costs differ at one level: see the comparison tables."),
)


def ranks_table(table: pd.DataFrame) -> str:
    """The Markdown of `named_ranks`."""
    heading = "## Ranks\n\n"
    if table.empty:
        return heading + NOTHING
    text = render(SHOWN, View(table))
    return f"{heading}{text.table}\n\n{' '.join(text.notes)}"


def ranks_figure(table: pd.DataFrame) -> Figure:
    """A dot with its interval per method, by family."""
    subtitle = "at the same level on the same network; 95 % bootstrap interval over pairs and seeds"
    if table.empty:
        return placeholder(TITLE, subtitle, "no two methods have been evaluated at one level")
    figure = new_figure(max(2.5, 0.9 + 0.19 * len(table)), TITLE, subtitle, "Grey: baselines.")
    axes = figure.subplots()
    families = list(dict.fromkeys(table.family))
    for position, row in enumerate(each(table)):
        color = GREY if row.baseline else PALETTE[families.index(row.family) % len(PALETTE)]
        axes.plot([100 * row.beaten_low, 100 * row.beaten_high], [position] * 2, color=color, lw=1.5)
        axes.plot(100 * row.beaten, position, "o", color=color, markersize=4)
    axes.set_yticks(range(len(table)), [f"{row.title} ({FAMILIES[row.family].lower()})" for row in each(table)])
    axes.tick_params(axis="y", labelsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel("rivals beaten (%)")
    return figure
