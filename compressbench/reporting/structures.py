"""The page and the figure of the published structures: removed arithmetic and removed time."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from compressbench.files import write_text
from compressbench.reporting.columns import Column, View, plain, render
from compressbench.reporting.frames import each
from compressbench.reporting.labels import Label, place
from compressbench.reporting.style import PALETTE, new_figure, save, styled
from compressbench.reporting.text import number

KEYS = ["method", "model", "setting"]
COLUMNS = (
    plain("model", "network"),
    Column("structure", "structure", lambda r: f"{r.title}, {r.setting.replace('_', ' ')}", numeric=False),
    Column("params_cut", "params cut", lambda r: f"{number(100 * r.params_cut, 1)} %"),
    Column("macs_reduction", "MACs cut", lambda r: f"{number(100 * r.macs_reduction, 1)} %"),
    Column("time_reduction", "time cut", lambda r: f"{number(100 * r.time_reduction, 1)} %"),
    Column("dense_ms", "dense ms", lambda r: f"{number(r.dense_ms)} ({r.dense_runtime})"),
    Column("ms", "ms", lambda r: f"{number(r.ms)} ({r.runtime})"),
    Column("speedup", "speed-up", lambda r: number(r.dense_ms / r.ms)),
    Column(
        "of_ideal",
        "of 1 / density",
        lambda r: f"{number(100 * r.dense_ms / r.ms * (1 - r.macs_reduction), 0)} %",
        note="`of 1 / density`: the speed-up over the one that the multiply-accumulates promise.",
    ),
)


def write_structures(table: pd.DataFrame, titles: Mapping[str, str], machine: str, out: Path) -> list[Path]:
    """tables/structures.{csv,md}, figures/structures.{png,svg}; `table` is what `kernels.structures.measure` returns."""
    best = best_times(table)
    csv, page = out / "tables/structures.csv", out / "tables/structures.md"
    write_text(csv, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(page, _page(best, titles, machine))
    with styled():
        return [csv, page, *save(_figure(best, titles), out / "figures", "structures")]


def best_times(table: pd.DataFrame) -> pd.DataFrame:
    """One row per structure: dense and narrow network each on the runtime where it is fastest.

    Columns: KEYS, macs_reduction, params_cut, dense_ms, dense_runtime, ms, runtime, time_reduction.
    """
    rows = []
    for key, part in table.groupby(KEYS, sort=False):
        dense, narrow = part.iloc[int(part.dense_ms.argmin())], part.iloc[int(part.latency_ms.argmin())]
        rows.append(
            {
                **dict(zip(KEYS, key, strict=True)),  # type: ignore[arg-type]
                **{name: part[name].iloc[0] for name in ("macs_reduction", "params_cut")},
                "dense_ms": dense.dense_ms,
                "dense_runtime": dense.runtime,
                "ms": narrow.latency_ms,
                "runtime": narrow.runtime,
                "time_reduction": 1 - narrow.latency_ms / dense.dense_ms,
            }
        )
    return pd.DataFrame(rows)


def _page(best: pd.DataFrame, titles: Mapping[str, str], machine: str) -> str:
    rows = best.assign(title=[titles.get(m, m) for m in best.method]).sort_values(
        ["model", "macs_reduction"], kind="stable"
    )
    text = render(COLUMNS, View(rows))
    note = (
        f"Published structures with random weights: one image, one thread, on {machine}. Dense and narrow network each on the "
        "runtime where it is fastest, medians of interleaved rounds. "
    )
    return f"## Published structures: arithmetic and time\n\n{text.table}\n\n{note}{' '.join(text.notes)}\n"


def _figure(best: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    figure = new_figure(
        4.6,
        "Removed arithmetic and removed time",
        "published structures, one image, one thread",
        "Line: time falls like the multiply-accumulates. Each network on the runtime where it is fastest.",
    )
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="#333333", lw=1, ls="--")
    labels = []
    for color, (model, part) in zip(PALETTE, best.groupby("model"), strict=False):
        axes.plot(100 * part.macs_reduction, 100 * part.time_reduction, "o", color=color, markersize=6, label=model)
        labels += [
            Label(
                100 * r.macs_reduction,
                100 * r.time_reduction,
                f"{titles.get(r.method, r.method)} {r.setting.removeprefix(model).replace('_', ' ').strip()}".strip(),
                color,
            )
            for r in each(part)
        ]
    axes.set_xlim(40, 85)
    axes.set_ylim(min(0.0, 100 * best.time_reduction.min() - 5), 85)
    axes.set_xlabel("multiply-accumulates removed (%)")
    axes.set_ylabel("measured time removed (%)")
    axes.legend(loc="upper left", frameon=False)
    place(axes, labels, np.column_stack([100 * best.macs_reduction, 100 * best.time_reduction]))
    return figure
