"""Sparse networks at equal kept weights: quality over sparsity, and the overlap of the masks of different criteria."""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from compressbench.reporting.collect import Results
from compressbench.reporting.figures import curves, quality_floor
from compressbench.reporting.frames import each
from compressbench.reporting.groups import FAMILIES, SPARSE, Group
from compressbench.reporting.labels import name_column
from compressbench.reporting.style import new_figure, placeholder
from compressbench.reporting.summary import level_order, main_variants

TICKS = (100, 50, 25, 10, 5, 2, 1)  # % kept
DODGE = 0.015  # relative shift of neighbouring series, so that their intervals do not cover each other

Masks = Mapping[str, np.ndarray]


def quality_against_sparsity(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """A panel per family; the share of zeros is that of the whole network, whatever a method leaves dense."""
    title = "Quality against sparsity"
    chosen = _sparse(summary, group)
    if chosen.empty:
        return placeholder(title, group.title, "no sparse network has been evaluated")
    note = (
        "Zeros among the weights of the whole network, whatever a method leaves dense. Bars: 95 % t-interval over seeds "
        "(shifted sideways a little). Line: dense, same budget.\n"
        "Hollow grey: baselines. Variants of a method that were run at one sparsity only are in the comparison table."
    )
    families = [f for f in SPARSE if f in set(chosen.family)]
    figure = new_figure(1.2 + 2.7 * len(families), title, group.title, note)
    panels = figure.subplots(len(families), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    floor = quality_floor(summary.quality)
    kept = 100 * chosen.density
    axes: Axes = panels[0]
    axes.set_xscale("log")
    axes.set_xlim(1.2 * kept.max(), 0.8 * kept.min())  # kept weights fall to the right
    axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS if 0.8 * kept.min() <= t <= 1.2 * kept.max()]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 - v:g}"))
    best = summary.quality.max()
    low = max(floor, min(chosen.quality.min(), chosen.quality_low.min()))
    axes.set_ylim(low - 0.04 * (best - low), best + 0.06 * (best - low))
    for panel, family in zip(panels, families, strict=True):
        ends = curves(
            panel, chosen[chosen.family == family], "density", group, floor, lambda x, i: 100 * x * (1 + DODGE * i)
        )
        for row in each(summary[summary.series == summary.against]):
            panel.axhline(row.quality, color="black", lw=0.9, zorder=1)
        panel.set_ylabel(group.quality)
        panel.set_title(FAMILIES[family])
        name_column(panel, ends, 1.03, 7.5)
    panels[-1].set_xlabel("zero weights of the whole network (%, logarithmic in what is left)")
    return figure


def _sparse(summary: pd.DataFrame, group: Group) -> pd.DataFrame:
    """The rows of sparse networks without controls, `family` beside them."""
    if summary.empty:
        return summary
    table = summary[~summary.reference & summary.quality.notna()]
    table = table.assign(family=table.method.map(lambda m: group.declarations[m].family))
    return main_variants(table[table.family.isin(SPARSE)])


def mask_overlap(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """What two unstructured masks share, beside what independent masks with the same quotas per layer would share."""
    title = "What the masks of different criteria share"
    masks = _masks_at_the_level_of_most(group, summary, results)
    names = list(masks)
    if len(names) < 2:
        return placeholder(title, group.title, "fewer than two unstructured methods have left masks")
    count = len(names)
    shared = np.full((count, count), np.nan)
    for (i, a), (j, b) in product(enumerate(names), repeat=2):
        seeds = sorted(set(masks[a]) & set(masks[b]))
        if i != j and seeds:
            measure = overlap if i > j else overlap_by_chance
            shared[i, j] = 100 * np.mean([measure(masks[a][s], masks[b][s]) for s in seeds])
    note = (
        "Below the diagonal: kept weights that two networks share, in % of what one of them keeps; mean over seeds. "
        "Above it, in italics: what masks drawn at random would share that keep as many weights of every layer.\n"
        "All networks of a seed come from the same random weights, so that positions can be compared."
    )
    level = group.level_name(_level_of_most(group, summary) or "")
    figure = new_figure(1.5 + 0.36 * count, title, f"{group.title}, {level}", note)
    axes = figure.add_subplot()
    axes.imshow(shared, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for i, j in zip(*np.nonzero(~np.isnan(shared)), strict=True):
        value = shared[i, j]
        axes.text(
            j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 60 else "#222222",
            style="italic" if i < j else "normal",
        )  # fmt: skip
    axes.set_xticks(range(count), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(count), names, fontsize=8)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _level_of_most(group: Group, summary: pd.DataFrame) -> str | None:
    """The level at which most unstructured series are; of several the sparsest."""
    table = _unstructured(group, summary)
    if table.empty:  # without any result, a table has no columns either
        return None
    counts = table.groupby("level").series.nunique()
    return max(reversed(level_order(table)), key=lambda level: counts[level])


def _unstructured(group: Group, summary: pd.DataFrame) -> pd.DataFrame:
    if summary.empty:
        return summary
    chosen = summary.method.map(lambda m: group.declarations[m].family == "unstructured")
    return summary[chosen & ~summary.reference]


def _masks_at_the_level_of_most(group: Group, summary: pd.DataFrame, results: Results) -> dict[str, dict[int, Masks]]:
    """Series -> seed -> masks, methods first; series whose models cannot be read are left out."""
    table = _unstructured(group, summary)
    level = _level_of_most(group, summary)
    found: dict[str, dict[int, Masks]] = {}
    for row in each(table[table.level == level] if level else table):
        stage = group.declarations[row.method].final_stage(row.setting)
        for run in group.runs:
            if (run.method, run.setting) == (row.method, row.setting):
                masks = _read_masks(results.folder(run, stage) / "model.safetensors")
                if masks:
                    found.setdefault(row.series, {})[run.seed] = masks
    return found


def _read_masks(path: Path) -> Masks:
    """The masks of a stored model by layer; none when it is not there, damaged, or dense."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {n.removesuffix(".mask"): file.get_tensor(n) for n in file.keys() if n.endswith(".mask")}  # noqa: SIM118
    except (SafetensorError, OSError):
        return {}


def overlap(a: Masks, b: Masks) -> float:
    """Kept weights that both keep, over the mean number that one keeps. Masks: bool arrays by layer, of equal shapes."""
    return _shared(a, b, lambda x, y: float(np.count_nonzero(x & y)))


def overlap_by_chance(a: Masks, b: Masks) -> float:
    """The overlap to expect of independent masks that keep as many weights per layer: Σ_l a_l b_l / n_l for Σ_l |a ∩ b|."""
    return _shared(a, b, lambda x, y: np.count_nonzero(x) * np.count_nonzero(y) / x.size)


def _shared(a: Masks, b: Masks, count: Callable[[np.ndarray, np.ndarray], float]) -> float:
    layers = a.keys() & b.keys()
    kept = sum(np.count_nonzero(a[n]) + np.count_nonzero(b[n]) for n in layers) / 2
    return float(sum(count(a[n], b[n]) for n in sorted(layers)) / max(kept, 1))
