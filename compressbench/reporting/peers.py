"""Training curves of jointly trained networks: the kept one and the others."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressbench.reporting.collect import KEYS, Results
from compressbench.reporting.frames import of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.labels import Label, name_column
from compressbench.reporting.style import GREY, PALETTE, dashes, new_figure, placeholder

PREFIX = "validation_top1_"
# columns of history.csv behind the prefix, and what they are called; single students are in the file only
BESIDE = {"students": "students, mean", "ensemble": "students, ensemble", "fusion": "fusion"}


def peers(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """A panel per series that trains several networks jointly; baselines with one network are in all panels."""
    title = "Jointly trained networks"
    history = _history(group, results)
    columns = [PREFIX + name for name in BESIDE if PREFIX + name in history]
    together = history[history[columns].notna().any(axis=1)] if columns else history[:0]
    if together.empty:
        return placeholder(title, group.title, "no method has trained several networks at once")
    alone = history[~history.series.isin(set(together.series)) & history.quality.notna()]
    note = (
        "Mean over seeds, on images held out of the training set. Thick: the network that is kept; the others are discarded.\n"
        "Grey: baselines that train one network; black: dense, the same network alone. Level: the end of a longer training."
    )
    names = list(dict.fromkeys(together.series))
    figure = new_figure(0.9 + 2.35 * len(names), title, group.title, note)
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    lines, low, last = dashes(group), history.quality.quantile(0.15), float(together.steps.max())
    for axes, name in zip(panels, names, strict=True):
        ends = []
        axes.set_xlim(0, 1.02 * last)
        for series, part in alone.groupby("series", sort=False):
            color = "black" if part.method.map(group.is_dense).all() else GREY
            ends += _curve(axes, part, "quality", str(series), color, 1.0, lines[str(series)])
        own = together[together.series == name]
        ends += _curve(axes, own, "quality", name, PALETTE[0], 2.0)
        for color, (column, text) in zip(PALETTE[1:], BESIDE.items(), strict=False):
            if PREFIX + column in own and own[PREFIX + column].notna().any():
                ends += _curve(axes, own, PREFIX + column, text, color, 1.2)
        axes.set_title(name)
        axes.set_ylabel("validation top-1 (%)")
        axes.set_ylim(bottom=low)
        name_column(axes, ends, 1.03, 7.5)
    panels[-1].set_xlabel("optimiser steps")
    return figure


def _curve(
    axes: Axes, part: pd.DataFrame, column: str, name: str, color: str, width: float, line: str = "-"
) -> list[Label]:
    """The mean over seeds, and the label of its end; a line at the end of what goes on beyond the axis."""
    mean, right = part.groupby("steps")[column].mean().dropna(), axes.get_xlim()[1]
    if mean.index[-1] > right:
        axes.axhline(float(mean.iloc[-1]), ls=line, color=color, lw=width)
        return [Label(right, float(mean.iloc[-1]), f"{name}, {mean.index[-1]:,.0f} steps", color)]
    axes.plot(mean.index, mean, line, color=color, lw=width)
    return [Label(float(mean.index[-1]), float(mean.iloc[-1]), name, color)]


def _history(group: Group, results: Results) -> pd.DataFrame:
    """The group's history with a column `series`; that of a dense network which was pretrained is its pretraining."""
    found = of_group(results.history, group)
    for run in group.runs:
        if group.is_dense(run.method) and (found.method != run.method).all():
            pretraining = results.pretraining(run)
            if pretraining is not None:
                found = pd.concat([found, pretraining.assign(**{key: getattr(run, key) for key in KEYS})])
    named = [group.series(method, setting) for method, setting in zip(found.method, found.setting, strict=True)]
    return found.assign(series=named)
