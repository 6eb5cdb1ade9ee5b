"""The tables beside the comparison: complete as CSV, a page as Markdown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from compressbench.files import write_text
from compressbench.reporting.collect import KEYS, Results
from compressbench.reporting.columns import (
    MS,
    SETTING,
    SPEEDUP,
    TITLE,
    Column,
    View,
    bullets,
    measured_on,
    named,
    plain,
    render,
)
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.statistics import t_interval
from compressbench.reporting.text import DASH, NOTHING, exact, number

BEHIND = (8, 4, 2, 1)  # points
CELL = ["method", "setting"]

LATENCY = (
    TITLE,
    SETTING,
    plain("runtime"),
    Column("arithmetic", "arithmetic", lambda r: DASH if pd.isna(r.arithmetic) else str(r.arithmetic), numeric=False),
    Column("threads", "threads", lambda r: str(r.threads)),
    Column("dense_ms", "dense ms", lambda r: number(r.dense_ms, 3)),
    MS,
    SPEEDUP,
    Column("processes", "processes", lambda r: str(r.processes)),
    Column("layers", "layers", lambda r: "" if pd.isna(r.layers) else str(r.layers), numeric=False),
)
RECORDS = (
    TITLE,
    SETTING,
    Column("number", "number", lambda r: r.name.replace("_", " "), numeric=False),
    Column("mean", "mean ± 95 % interval", lambda r: f"{exact(r.mean)}{_spread(r)} (n={r.n})"),
)
COUNTS = (
    TITLE,
    plain("model"),
    plain("setting"),
    plain("metric", "quantity"),
    Column("published", "published", lambda r: r.published or DASH),
    Column("recomputed", "recomputed", lambda r: exact(r.recomputed)),
    Column("difference", "difference", lambda r: exact(r.difference)),
    Column("verdict", "", lambda r: "**differs**" if r.verdict == "differs" else r.verdict, numeric=False),
    Column("source", "source", lambda r: r.source or DASH, numeric=False),
)


def write_table(folder: Path, name: str, csv: pd.DataFrame, markdown: str) -> list[Path]:
    """`name`.csv and `name`.md."""
    write_text(folder / f"{name}.csv", csv.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    write_text(folder / f"{name}.md", markdown.rstrip() + "\n")
    return [folder / f"{name}.csv", folder / f"{name}.md"]


def latency(group: Group, results: Results) -> tuple[pd.DataFrame, str]:
    """Every runtime and thread count of what was timed itself, and what was skipped with its reason."""
    own = of_group(results.latency, group)
    own = own[own.own.astype(bool)]
    heading = f"## Latency. {group.title}\n\n"
    if own.empty:
        return own, heading + NOTHING
    keys = [*CELL, "runtime", "threads", "arithmetic", "library", "isa", "layers"]
    table = own.groupby(keys, sort=False, dropna=False, as_index=False).agg(
        dense_ms=("dense_ms", "median"),
        latency_ms=("latency_ms", "median"),
        speedup=("speedup", "median"),
        speedup_low=("low", "min"),
        speedup_high=("high", "max"),
        processes=("processes", "min"),
        seeds=("seed", "nunique"),
    )
    cover = (
        "Brackets: 95 % interval of the ratio in one process; where `processes` is more than 1, from the lowest to the highest "
        f"of them: there the dense or the compressed network is fastest with one thread.{measured_on(own.cpu)}"
    )
    environment = table[["runtime", "library", "isa"]].drop_duplicates()
    notes = [cover, *(f"{r.runtime}: {r.library}, {r.isa}" for r in each(environment))]
    skipped = of_group(results.skipped, group).drop_duplicates([*CELL, "runtime", "reason"])
    notes += [f"skipped: {r.title}, {r.label}, {r.runtime}: {r.reason}" for r in each(named(skipped, group))]
    return table, f"{heading}{render(LATENCY, View(named(table, group), group)).table}\n\n{bullets(notes)}"


def time_to_quality(group: Group, results: Results) -> tuple[pd.DataFrame, str]:
    """Optimiser steps after which the validation first reaches a quality; and its Markdown.

    One row per (method, setting) that validates while it trains: the length of its training, and the mean over seeds for
    BEHIND points less than the best of the group at its end. Qualities that some seed does not reach have no number.
    """
    heading = f"## Steps to the same quality. {group.title}\n\n"
    history = of_group(results.history, group)
    if "steps" not in history or not history.quality.notna().any():
        return pd.DataFrame(columns=CELL), heading + NOTHING
    known = _with_total_steps(history)
    best = known.groupby([*CELL, "seed"]).quality.last().groupby(CELL).mean().max()
    table = pd.DataFrame([_steps(group, own, best) for _, own in known.groupby(CELL, sort=False)])
    note = (
        f"Validation {group.header}; mean over seeds, a dash where a seed does not reach it. Compare variants of one "
        "method: what prunes while it trains has been a denser network on its way."
    )
    return table, f"{heading}{render(_steps_columns(best), View(named(table, group), group)).table}\n\n{note}"


def _steps_columns(best: float) -> list[Column]:
    headers = {"steps": "all steps"} | {f"behind_{points}": f"to {number(best - points, 1)}" for points in BEHIND}
    return [TITLE, SETTING, *(_steps_column(key, header) for key, header in headers.items())]


def _steps_column(key: str, header: str) -> Column:
    return Column(key, header, lambda row: number(getattr(row, key), 0))


def _with_total_steps(history: pd.DataFrame) -> pd.DataFrame:
    """The validated epochs, with the steps of both stages as `total`: the second counts on where the first one ended."""
    known = history[history.steps.notna() & history.quality.notna()]
    keys = [*CELL, "seed"]
    compressed = known[known.stage == "compress"].groupby(keys).steps.max().rename("before")
    before = known.join(compressed, on=keys).before.where(known.stage == "finetune").fillna(0)
    return known.assign(total=known.steps + before)


def _steps(group: Group, own: pd.DataFrame, best: float) -> dict[str, Any]:
    """The row of one (method, setting)."""
    method, setting = own.method.iloc[0], own.setting.iloc[0]
    row = {"method": method, "setting": setting, "series": group.series(method, setting)}
    row |= {"level": group.levels[method, setting].name, "steps": own.groupby("seed").total.max().mean()}
    for points in BEHIND:
        first = own[own.quality >= best - points].groupby("seed").total.min()
        row[f"behind_{points}"] = first.mean() if len(first) == own.seed.nunique() else float("nan")
    return row


def records(groups: Sequence[Group], results: Results) -> tuple[pd.DataFrame, str]:
    """The extra numbers that methods recorded, as means over seeds."""
    columns = ["dataset", "model", *CELL, "name", "mean", "low", "high", "n"]
    heading = "## What the methods measured beside quality\n\n"
    tables = [own for group in groups if len(own := _recorded(group, of_group(results.records, group)))]
    if not tables:
        return pd.DataFrame(columns=columns), heading + "No method has recorded anything."
    table = pd.concat(tables, ignore_index=True)
    return table[columns], heading + render(RECORDS, View(table)).table


def _recorded(group: Group, own: pd.DataFrame) -> pd.DataFrame:
    """Means and intervals of a group's records, with names."""
    rows = [
        {"dataset": group.dataset, "model": group.model, "method": method, "setting": setting, "name": name}
        | t_interval(part.value)._asdict()
        for (method, setting, name), part in own.groupby([*CELL, "name"], sort=False)  # type: ignore[misc]
    ]
    return named(pd.DataFrame(rows), group) if rows else pd.DataFrame()


def _spread(row: Any) -> str:
    half = (row.high - row.low) / 2
    return f" ± {exact(float(f'{half:.3g}'))}" if row.n > 1 else ""


def published_counts(table: pd.DataFrame, title: Callable[[str], str]) -> str:
    """Published against recomputed, as Markdown."""
    heading = "## Published against recomputed: what needs no training\n\n"
    if table.empty:
        return heading + "No count has been recomputed yet."
    counts = table.verdict.value_counts()
    note = (
        f"{counts.get('ok', 0)} agree to the last printed digit, {counts.get('differs', 0)} differ, "
        f"{counts.get('not published', 0)} have no published value."
    )
    rows = table.assign(title=[title(m) for m in table.method])
    return f"{heading}{note}\n\n{render(COUNTS, View(rows)).table}"


def missing(table: pd.DataFrame, title: Callable[[str], str]) -> str:
    """Which expected results are not there, one line per run."""
    heading = "## Missing results\n\n"
    if table.empty:
        return heading + "Nothing is missing."
    lines = []
    for key, part in table.groupby(KEYS, sort=False):
        dataset, model, method, setting, seed = key
        what = "; ".join(f"{r.result} ({r.reason})" for r in each(part))
        lines.append(f"{title(str(method))}, `{dataset}/{model}/{method}/{setting}/seed{seed}`: {what}")
    count = f"{len(table)} expected files of {len(lines)} runs; the tables and figures do without them."
    return f"{heading}{count}\n\n{bullets(lines)}"
