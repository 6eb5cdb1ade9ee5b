"""One network with several budgets: whether methods rank alike after more training."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from compressbench.reporting.collect import Results
from compressbench.reporting.columns import Column, View, render
from compressbench.reporting.frames import each
from compressbench.reporting.groups import Group
from compressbench.reporting.labels import Label, name_column
from compressbench.reporting.statistics import Interval, t_interval
from compressbench.reporting.style import colors, dashes, marker_style, new_figure, placeholder
from compressbench.reporting.text import DASH, NOTHING, number

TITLE = "Quality against budget"
FEWEST = 3  # networks that a rank correlation needs
ALL = "all levels"
Multiples = Mapping[str, float]
"""dataset/model -> its budget as a multiple of the least."""


def qualities(groups: Sequence[Group], results: Results, multiples: Multiples) -> pd.DataFrame:
    """A row per compressed network and budget: method, setting, series, level, baseline, seed, multiple, quality."""
    rows = []
    for group in groups:
        if (multiple := multiples.get(f"{group.dataset}/{group.model}")) is None:
            continue
        runs = results.runs[(results.runs.dataset == group.dataset) & (results.runs.model == group.model)]
        rows += [
            {
                "method": run.method,
                "setting": run.setting,
                "series": group.series(run.method, run.setting),
                "level": group.levels[run.method, run.setting].alone,
                "baseline": group.is_baseline(run.method),
                "seed": run.seed,
                "multiple": multiple,
                "quality": run.quality,
            }
            for run in each(runs)
            if not group.is_dense(run.method)
        ]
    columns = ["method", "setting", "series", "level", "baseline", "seed", "multiple", "quality"]
    return pd.DataFrame(rows, columns=columns)


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """level, less, more -> how alike networks rank at two neighbouring budgets, means over seeds with 95 % t-intervals.

    spearman, kendall: rho and tau (b) between the qualities of one seed at both budgets; of all levels, and of each level with
    at least FEWEST networks.
    """
    found = []
    for less, more in pairwise(sorted(table.multiple.unique())):
        for level in [ALL, *dict.fromkeys(table.level)]:
            own = table if level == ALL else table[table.level == level]
            seeds = [_of_seed(part, less, more) for _, part in own.groupby("seed")]
            known = [seed for seed in seeds if seed is not None]
            if known:
                row: dict[str, Any] = {"level": level, "less": less, "more": more, "networks": known[0]["networks"]}
                for name in ("spearman", "kendall"):
                    value = t_interval(seed[name] for seed in known)
                    row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high, "n": value.n}
                found.append(row)
    return pd.DataFrame(found)


def _of_seed(part: pd.DataFrame, less: float, more: float) -> dict[str, float] | None:
    """The correlations of one seed, of the networks that have both budgets; None where they are too few."""
    from scipy.stats import kendalltau, spearmanr

    wide = part.pivot_table(index=["method", "setting"], columns="multiple", values="quality").reindex(
        columns=[less, more]
    )
    wide = wide.dropna()
    if len(wide) < FEWEST:
        return None
    pair = (wide[less].to_numpy(), wide[more].to_numpy())
    return {
        "networks": len(wide),
        "spearman": float(spearmanr(*pair).statistic),
        "kendall": float(kendalltau(*pair).statistic),
    }


def _with_interval(mean: float, low: float, high: float) -> str:
    value = Interval(mean, low, high, 2)
    return number(mean) + (f" ± {number(value.half)}" if number(low) != DASH else "")


SHOWN = (
    Column("level", "level", lambda row: row.level, numeric=False),
    Column("budgets", "budgets", lambda row: f"{row.less:g}× and {row.more:g}×"),
    Column("networks", "networks", lambda row: str(row.networks)),
    Column("spearman", "Spearman's ρ", lambda r: _with_interval(r.spearman, r.spearman_low, r.spearman_high)),
    Column(
        "kendall",
        "Kendall's τ",
        lambda r: _with_interval(r.kendall, r.kendall_low, r.kendall_high),
        note="Rank correlation between the qualities at two budgets, 1 where all rank alike; ± is the 95 % t-interval over "
        "seeds. All levels together also rank strong compression below mild, so that each level says more.",
    ),
)


def budgets_table(groups: Sequence[Group], results: Results, multiples: Multiples) -> tuple[pd.DataFrame, str]:
    """`correlations`, and the Markdown."""
    table = correlations(qualities(groups, results, multiples))
    if table.empty:
        return table, f"## Ranks at several budgets\n\n{NOTHING}"
    text = render(SHOWN, View(table))
    return table, f"## Ranks at several budgets\n\n{text.table}\n\n{' '.join(text.notes)}"


def budgets_figure(groups: Sequence[Group], results: Results, multiples: Multiples) -> Figure:
    """A panel per level: the quality of every network over its budget, mean and 95 % t-interval over seeds."""
    table = qualities(groups, results, multiples).dropna(subset="quality")
    chosen = [group for group in groups if f"{group.dataset}/{group.model}" in multiples]
    subtitle = chosen[0].title if chosen else ""
    steps = sorted(table.multiple.unique())
    shared = table.groupby("level").series.nunique()
    levels = [level for level in dict.fromkeys(table.level) if shared[level] > 1]
    if len(steps) < 2 or not levels:
        return placeholder(TITLE, subtitle, "no network has been trained with two budgets")
    note = "Bars: 95 % t-interval over seeds. Hollow grey: baselines. Curves that cross change ranks."
    figure = new_figure(0.9 + 2.0 * len(levels), TITLE, subtitle, note)
    panels = figure.subplots(len(levels), 1, sharex=True, squeeze=False)[:, 0]
    palette, lines = colors(chosen[0]), dashes(chosen[0])
    for axes, level in zip(panels, levels, strict=True):
        own = table[table.level == level]
        names = list(dict.fromkeys(own.series))
        ends = []
        for i, series in enumerate(names):
            part = own[own.series == series]
            means = [t_interval(part[part.multiple == step].quality) for step in steps]
            x = [k + 0.012 * (i - (len(names) - 1) / 2) for k in range(len(steps))]
            color, baseline = palette[series], bool(part.baseline.iloc[0])
            axes.plot(x, [m.mean for m in means], lines[series], color=color, lw=1.0 if baseline else 1.5, alpha=0.8)
            for at, mean in zip(x, means, strict=True):
                axes.plot([at, at], [mean.low, mean.high], color=color, lw=1.0, zorder=2)
                axes.plot(at, mean.mean, "o", markersize=4.5, zorder=3, **marker_style(color, baseline))
            ends.append(Label(x[-1], means[-1].mean, series, color))
        axes.set_title(level)
        axes.set_ylabel(chosen[0].quality.partition(",")[0])
        axes.set_xlim(-0.15, len(steps) - 0.85)
        axes.set_xticks(range(len(steps)), [f"{step:g}×" for step in steps])
        name_column(axes, ends, 1.03, 7.0)
    panels[-1].set_xlabel("budget, as a multiple of the least")
    return figure
