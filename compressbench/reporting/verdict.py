"""Comparison of a run with the committed numbers of the same seeds: which are equal, and which are not."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from compressbench.reporting.collect import AT
from compressbench.reporting.frames import each
from compressbench.reporting.run_files import STAGES
from compressbench.reporting.seeds import CELL, KEY
from compressbench.reporting.statistics import t_interval
from compressbench.reporting.text import aligned_table, listed

VERDICTS = {
    "equal": "to the last digit",
    "within": "within the interval",
    "outside": "outside",
    "missing": "missing",
    "new": "new",
}
KINDS = ("quality", "sizes and counts", "records of methods")
COLUMNS = [*KEY, "verdict", "committed", "computed", "difference", "low", "high"]
DIFFERENCES, RUNS = 7, 2  # so many are named: the page is one screen


def compare(computed: pd.DataFrame, committed: pd.DataFrame, asked: pd.Series) -> pd.DataFrame:
    """A row per number, the largest differences first.

    Args:
        computed: of a run, see `seeds_table`.
        committed: of all seeds; `asked`: the rows of it that the run should meet.

    Returns:
        KEY; `verdict`, one of VERDICTS: a number is equal when all bits are, and another one within when it lies in the 95 %
        t-interval of the committed seeds; `committed`, `computed` and their `difference`; `low` and `high` of the interval
        of numbers that differ (NaN where fewer than two seeds are committed).
    """
    table = committed[asked].merge(
        computed, how="outer", on=KEY, suffixes=("_committed", "_computed"), indicator="found"
    )
    table = table.rename(columns={"value_committed": "committed", "value_computed": "computed"})
    table["difference"] = table.computed - table.committed
    table["verdict"] = table.found.astype(str).replace({"left_only": "missing", "right_only": "new", "both": "outside"})
    same = (table.computed == table.committed) | (table.computed.isna() & table.committed.isna())
    table.loc[(table.found == "both") & same, "verdict"] = "equal"
    cells = table.loc[table.verdict == "outside", CELL].drop_duplicates()
    spread = [(*key, *t_interval(part.value)[1:3]) for key, part in committed.merge(cells, on=CELL).groupby(CELL)]
    intervals = pd.DataFrame(spread, columns=[*CELL, "low", "high"]).astype({"low": float, "high": float})
    table = table.merge(intervals, how="left", on=CELL)
    table.loc[(table.verdict == "outside") & table.computed.between(table.low, table.high), "verdict"] = "within"
    return _by_size(table)[COLUMNS]


def _by_size(table: pd.DataFrame) -> pd.DataFrame:
    """What lies outside the interval first; then quality first; then the largest difference relative to the number."""
    order = pd.DataFrame(
        {
            "verdict": table.verdict.map(["outside", "within", "missing", "new", "equal"].index),
            "kind": table.name.map(kind_of).map(KINDS.index),
            "size": -(table.difference / table[["committed", "computed"]].abs().max(axis=1)).abs().fillna(math.inf),
        }
    )
    return table.loc[order.sort_values(["verdict", "kind", "size"], kind="stable").index].reset_index(drop=True)


def kind_of(name: str) -> str:
    """The one of KINDS that a number of `Results.numbers` belongs to."""
    first = name.partition(".")[0]
    return "quality" if first == "quality" else "records of methods" if first in STAGES else "sizes and counts"


def verdict(
    computed: pd.DataFrame,
    committed: pd.DataFrame | None,
    methods: Collection[str],
    seeds: Collection[int],
    scale: str,
    source: Path | None,
    file: Path,
    pairs: Collection[str] | None = None,
) -> tuple[pd.DataFrame, str]:
    """Every number that is not equal, as in `compare`, and one screen of Markdown.

    Args:
        computed: the numbers of the run, see `seeds_table`.
        committed: the numbers of `source`, None where there is no such file.
        methods, seeds: what the run claims; other committed numbers are not asked of it.
        scale: for the heading.
        source: None where nothing of this scale is committed.
        file: where all differences are found.
        pairs: dataset/model, claimed like methods and seeds; default all.
    """
    heading = f"# Verdict: {scale}, {_seeds(seeds)}\n\n"
    if committed is None:
        where = f"{source} does not exist" if source else "no numbers of this scale are committed"
        return pd.DataFrame(columns=COLUMNS), f"{heading}Nothing to compare with: {where}."
    asked = committed.method.isin(methods) & committed.seed.isin(seeds)
    if pairs is not None:
        asked &= (committed.dataset + "/" + committed.model).isin(pairs)
    table = compare(computed, committed, asked)
    parts = [_counts(table, source) if asked.any() else f"Nothing to compare with: {source} has none of these runs."]
    parts += [_differences(table, file), _absent(table, "missing", "Missing", file)]
    parts += [_absent(table, "new", "New, not in the committed table", file)]
    if not asked.all():
        others = committed[~asked]
        parts.append(
            f"Not part of this run: {_several(len(others), 'committed number')} of {_seeds(others.seed.unique())}."
        )
    return table[table.verdict != "equal"], heading + "\n\n".join(filter(None, parts))


def _counts(table: pd.DataFrame, source: Path | None) -> str:
    """A sentence, and a table of the numbers by kind and verdict."""
    counts = pd.crosstab(table.name.map(kind_of), table.verdict)
    counts = counts.reindex(index=list(KINDS), columns=list(VERDICTS), fill_value=0)
    counts.insert(0, "committed", counts.sum(axis=1) - counts.new)
    total = counts.sum()
    which = f"{total.equal:,} of {total.committed:,}" if total.equal < total.committed else f"All {total.committed:,}"
    sentence = (
        f"{which} committed numbers ({source}) are equal to the last digit; "
        f"{_several(total.within + total.outside, 'difference')}, {total.missing:,} missing."
    )
    body = counts.map("{:,}".format).rename(columns=VERDICTS).rename_axis(None, axis=1).reset_index(names="numbers")
    return f"{sentence} The interval: 95 %, of the committed seeds.\n\n{aligned_table(body)}"


def _differences(table: pd.DataFrame, file: Path) -> str:
    """The largest ones, a line each."""
    differ = table[table.verdict.isin(["within", "outside"])]
    lines = [
        f"- {_run(row)} {row.name}: {row.committed:.10g} -> {row.computed:.10g} "
        f"({row.difference:+.3g}, {row.verdict} {_interval(row)})"
        for row in each(differ.head(DIFFERENCES))
    ]
    if len(differ) > DIFFERENCES:
        lines.append(f"- ... and {len(differ) - DIFFERENCES:,} more: see {file}")
    return "\n".join(["Differences, the largest first:", *lines]) if lines else ""


def _absent(table: pd.DataFrame, kind: str, title: str, file: Path) -> str:
    """Which numbers only one of the tables has, by run."""
    runs = [_run(row) for row in each(table[table.verdict == kind])]
    names = list(dict.fromkeys(runs))
    if not runs:
        return ""
    more = f" ... and {len(names) - RUNS:,} more: see {file}" if len(names) > RUNS else ""
    return f"{title}: {_several(len(runs), 'number')} of {_several(len(names), 'run')}: {', '.join(names[:RUNS])}{more}"


def _interval(row: Any) -> str:
    if math.isnan(row.low):
        return "what has no interval: one seed is committed"
    return f"{row.low:.6g} to {row.high:.6g}" if row.low < row.high else "what all committed seeds agree on"


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _run(row: Any) -> str:
    setting = f"{row.setting}{AT}{row.point}" if row.point else row.setting
    return f"{row.dataset}/{row.model}/{row.method}/{setting}/seed{row.seed}"


def _seeds(seeds: Collection[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listed(sorted(seeds))}"
