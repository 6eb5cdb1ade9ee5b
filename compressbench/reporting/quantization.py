"""Quantized networks: quality over bits, and the diversity of the synthetic images of a class."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from compressbench.config.levels import Level
from compressbench.errors import UserError
from compressbench.files import read_json
from compressbench.reporting.collect import Results
from compressbench.reporting.figures import curves
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.labels import name_column
from compressbench.reporting.pictures import synthesized
from compressbench.reporting.style import colors, new_figure, placeholder

PANELS = {"bits": "weights and activations", "weight_bits": "weights only"}  # kind of level -> title
DODGE = 0.03  # bits between neighbouring series, so that their intervals do not cover each other


def quality_against_bits(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """A panel for networks whose weights and activations have k bits, one for networks with float activations."""
    title = "Quality against bits"
    chosen = _with_bits(group, summary, results)
    if chosen.empty:
        return placeholder(title, group.title, "no quantized network has been evaluated")
    kinds = [kind for kind in PANELS if (chosen.kind == kind).any()]
    others = ", but for binary ones" if "binary" in group.families else ""
    note = (
        f"All networks{others} come from the same trained one (line). Bars: 95 % t-interval over seeds (shifted sideways a "
        "little). Hollow grey: baselines.\n"
        "Variants of a method that were run at one width only are in the comparison table. Layers of different widths: the "
        "mean over weights."
    )
    figure = new_figure(1.2 + 2.7 * len(kinds), title, group.title, note)
    panels = figure.subplots(len(kinds), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    best, low = (
        summary.quality.max(),
        chosen.quality.min(),
    )  # how the simple ones collapse is the point: nothing is cut off
    for panel, kind in zip(panels, kinds, strict=True):
        panel.set_ylim(low - 0.06 * (best - low), best + 0.06 * (best - low))
        ends = curves(panel, chosen[chosen.kind == kind], "bits", group, low, lambda x, i: x + DODGE * i)
        for row in each(summary[summary.series == summary.against]):
            panel.axhline(row.quality, color="black", lw=0.9, zorder=1)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylabel(group.quality)
        panel.set_title(PANELS[kind])
        name_column(panel, ends, 1.03, 7.5)
    panels[-1].invert_xaxis()
    panels[-1].set_xlabel("bits (fewer to the right)")
    return figure


def _with_bits(group: Group, summary: pd.DataFrame, results: Results) -> pd.DataFrame:
    """The rows whose level is a width, with `kind` and `bits`: every method's first series, and those of several widths."""
    if summary.empty:
        return summary
    table = summary[~summary.reference & summary.quality.notna()]
    found = [_width(group.levels[key]) for key in zip(table.method, table.setting, strict=True)]
    table = table.assign(kind=[kind for kind, _ in found], bits=[bits for _, bits in found])
    table = table[table.kind != ""]
    records = of_group(results.records, group)
    mean = records[records.name == "mean_bits"].groupby(["method", "setting"]).value.mean()
    own = table[["method", "setting"]].join(mean.rename("mean"), on=["method", "setting"])["mean"]
    table = table.assign(bits=own.fillna(table.bits))
    first = table.series == table.groupby(["method", "kind"]).series.transform("first")
    return table[first | (table.groupby(["series", "kind"]).bits.transform("nunique") > 1)]


def _width(level: Level) -> tuple[str, float]:
    """(kind, bits) of a level that is a width, the first one where weights have several; ("", NaN) of others."""
    several = len(set(level.values)) > 1
    if level.kind not in PANELS or (level.kind == "bits" and several):
        return "", float("nan")
    return level.kind, level.values[0]


def diversity(group: Group, results: Results) -> Figure:
    """A row per way of synthesizing: how far images of a class are apart, beside as many real images."""
    title = "Diversity of synthetic images within a class"
    found = {series: _distances(folders) for series, folders in synthesized(group, results).items()}
    found = {series: pair for series, pair in found.items() if len(pair[0])}
    if not found:
        return placeholder(title, group.title, "no images have been synthesized")
    note = (
        "Mean cosine distance of the trained network's pooled features to the mean feature of their class. Small: single "
        "classes and seeds; large: their mean.\n"
        "Filled: synthetic; hollow black: as many real training images. Images that look alike are far left of the real ones."
    )
    figure = new_figure(1.3 + 0.42 * len(found), title, group.title, note)
    axes = figure.add_subplot()
    palette = colors(group)
    for y, (series, (made, real)) in enumerate(reversed(found.items())):
        for values, offset, color, face in (
            (real, -0.16, "black", "white"),
            (made, 0.16, palette[series], palette[series]),
        ):
            axes.plot(values, np.full(len(values), y + offset), "o", markersize=2.5, color=color, alpha=0.35, mew=0)
            axes.plot(values.mean(), y + offset, "o", markersize=6.5, color=color, mfc=face, mew=1.2)
    axes.set_yticks(range(len(found)), list(reversed(found)))
    axes.set_xlim(left=0)
    axes.set_xlabel("cosine distance to the mean of the class")
    return figure


def _distances(folders: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(synthetic, real): a value per class and seed; folders without a readable description are left out."""
    made: list[float] = []
    real: list[float] = []
    for folder in folders:
        try:
            described = read_json(folder / "synthetic.json")["distance_within_class"]
            synthetic, true = ([float(v) for v in described[kind] if v is not None] for kind in ("synthetic", "real"))
        except (UserError, OSError, ValueError, KeyError, TypeError):
            continue
        made, real = made + synthetic, real + true
    return np.array(made), np.array(real)
