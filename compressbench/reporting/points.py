"""Trade-off over the operating points of one model: quality, measured throughput, and MACs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressbench.reporting.collect import AT, Results
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.style import GREY, colors, marker_style, new_figure, placeholder

TITLE = "Quality, throughput and arithmetic over the operating points"
NOTE = (
    "Images per second: test images in batches of {batch}, eager mode, one thread, all points and dense interleaved. "
    "Dotted: the quality that a model would have at the same mean arithmetic if its last point answered for a random share of "
    "the images, and its first one for the others. Grey lines: baselines."
)


def operating_points(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """Three panels over the operating points of every model that has them; other networks are horizontal lines."""
    timed = of_group(results.throughput, group)
    table = _with_throughput(summary, timed)
    curves = table[table.setting.str.contains(AT)] if len(table) else table
    if curves.empty:
        return placeholder(TITLE, group.title, "no model with operating points has been evaluated")
    batch = f"{timed.batch.max():.0f}" if len(timed) else "–"
    figure = new_figure(6.6, TITLE, group.title, NOTE.format(batch=batch))
    panels = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [1.4, 1, 1]})
    palette = colors(group)
    levels = list(dict.fromkeys(curves.level))
    place = {level: i for i, level in enumerate(levels)}
    prefix, size = ("M", 1e6) if table.macs.max() < 1e9 else ("G", 1e9)
    columns = ("quality", "images_per_s", "macs")
    for axes, column in zip(panels, columns, strict=True):
        unit = size if column == "macs" else 1
        if curves[column].isna().all():
            axes.text(0.5, 0.5, "not measured yet", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_yticks([])
        for series, part in curves.groupby("series", sort=False):
            x, y = part.level.map(place).to_numpy(), part[column].to_numpy() / unit
            color = palette[str(series)]
            if column == "quality":
                axes.plot(x, random_share(part), ":", color=color, lw=1.0)
            axes.plot(x, y, color=color, lw=1.2, marker="o", markersize=4.5, **_faces(color), label=str(series))
        _references(axes, table[~table.setting.str.contains(AT)], column, unit)
        axes.margins(y=0.15)
    for axes, words in zip(panels, (group.quality, "images per second", f"{prefix}MACs per image"), strict=True):
        axes.set_ylabel(words)
    panels[2].set_ylim(bottom=0)
    panels[2].set_xticks(range(len(levels)), [group.level_name(level) for level in levels], rotation=30, ha="right")
    if curves.series.nunique() > 1:
        panels[0].legend(loc="lower right")
    return figure


def random_share(part: pd.DataFrame) -> np.ndarray:
    """The expected quality if the last row answered for a random share of the images, the first for the rest, at equal MACs."""
    macs, quality = part.macs.to_numpy(), part.quality.to_numpy()
    share = (macs - macs[0]) / (macs[-1] - macs[0]) if macs[-1] != macs[0] else np.zeros(len(macs))
    return quality[0] + share * (quality[-1] - quality[0])


def _with_throughput(summary: pd.DataFrame, timed: pd.DataFrame) -> pd.DataFrame:
    """The summary with `images_per_s` of the largest batch, the median over seeds; NaN where it was not measured."""
    largest = timed[timed.batch == timed.batch.max()]
    speed = 1e3 / largest.groupby(["method", "setting"]).latency_ms.median()
    if summary.empty:
        return summary
    keys = zip(summary.method, summary.setting, strict=True)
    return summary.assign(images_per_s=[float(speed.get(key, float("nan"))) for key in keys])


def _faces(color: str) -> dict[str, object]:
    return {k: v for k, v in marker_style(color, False).items() if k != "color"}


def _references(axes: Axes, others: pd.DataFrame, column: str, unit: float) -> None:
    """A line per network without operating points, its name at the right end."""
    for row in each(others[others[column].notna()]):
        y = getattr(row, column) / unit
        axes.axhline(y, color=GREY, lw=0.8, ls="--", zorder=1)
        axes.annotate(
            row.series,
            (1.01, y),
            xycoords=("axes fraction", "data"),
            fontsize=7.5,
            color="#555555",
            va="center",
            annotation_clip=False,
        )
