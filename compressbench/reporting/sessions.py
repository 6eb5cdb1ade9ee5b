"""Class-incremental learning session by session: accuracy on all, on old and on new classes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from compressbench.reporting.collect import Results
from compressbench.reporting.columns import METHOD, SETTING, Column, View, named, render
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import Group, is_number
from compressbench.reporting.labels import Label, name_column
from compressbench.reporting.style import colors, dashes, marker_style, new_figure, placeholder
from compressbench.reporting.text import DASH, NOTHING, number

PANELS = {"accuracy": "all classes so far", "old": "earlier classes", "new": "new classes"}
MEASURES = [*PANELS, "forgetting"]
DODGE = 0.03  # of a session, between neighbouring series, so that their bars do not cover each other


def by_session(group: Group, results: Results) -> pd.DataFrame:
    """One row per (method, setting, session): mean and standard deviation over all draws and seeds, in % and points.

    Columns: method, setting, session, classes, n, and for each of MEASURES the mean and `_deviation` (NaN for n = 1).
    """
    own = of_group(results.sessions, group)
    keys = ["method", "setting", "session", "classes"]
    rows = own.groupby(keys, sort=False)
    means, deviations = rows[MEASURES].mean(), rows[MEASURES].std()
    table = means.join(deviations, rsuffix="_deviation").assign(n=rows.size()).reset_index()
    order = {(m, s): i for i, (m, s) in enumerate((m, s) for m, all_ in group.settings.items() for s in all_)}
    position = [order[r.method, r.setting] for r in each(table)]
    return table.assign(position=position).sort_values(["position", "session"]).drop(columns="position")


def sessions_table(group: Group, results: Results) -> tuple[pd.DataFrame, str]:
    """`by_session`, and its Markdown: accuracy after each session, and how much has been forgotten."""
    table = by_session(group, results)
    heading = f"## Session by session. {group.title}\n\n"
    if table.empty:
        return table, heading + NOTHING
    runs = table.groupby(["method", "setting"], sort=False)
    rows = [{"method": m, "setting": s, "sessions": {r.session: r for r in each(own)}} for (m, s), own in runs]
    view, classes = View(named(pd.DataFrame(rows), group)), dict(sorted(zip(table.session, table.classes, strict=True)))
    accuracy = render(_columns("accuracy", classes), view).table
    forgetting = render(_columns("forgetting", dict(list(classes.items())[1:])), view).table
    n = sorted(set(table.n))
    trials = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
    note = (
        f"Mean ± standard deviation over {trials} trials (draws of the shots; seeds: class order and base network), in %. "
        "Forgetting, in points: mean over the earlier sessions of the best accuracy on their classes so far, less that of now."
    )
    parts = ["Accuracy on all classes so far", accuracy, "Forgetting", forgetting, note]
    return table, heading + "\n\n".join(parts)


def _columns(measure: str, classes: Mapping[int, int]) -> list[Column]:
    """A column per session; `classes` seen so far, by session."""
    texts = {session: partial(_text, session=session, measure=measure) for session in classes}
    sessions = [Column(f"session{s}", f"{s} ({classes[s]} classes)", text) for s, text in texts.items()]
    return [METHOD, SETTING, *sessions]


def _text(row: Any, session: int, measure: str) -> str:
    if session not in row.sessions:
        return DASH
    mean, deviation = (getattr(row.sessions[session], name) for name in (measure, f"{measure}_deviation"))
    return f"{number(mean, 1)} ± {number(deviation, 1)}" if is_number(deviation) else number(mean, 1)


def accuracy_by_session(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """Three panels: all classes so far, the earlier ones, the new ones; a line per method and per setting of a baseline."""
    title = "Accuracy after each session"
    table = by_session(group, results)
    shown = {(m, s) for m, all_ in group.settings.items() for s in (all_ if group.is_baseline(m) else all_[:1])}
    table = table[[(row.method, row.setting) in shown for row in each(table)]]
    if table.empty:
        return placeholder(title, group.title, "no network has been through the sessions")
    trials = int(table.n.max())
    note = (
        f"Mean and standard deviation over {trials} trials: draws of the shots, and seeds (class order and base network). "
        "Methods at their first setting; their variants are in the table. Hollow grey: baselines."
    )
    figure = new_figure(3.4, title, group.title, note)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    ends: list[Label] = []
    for axes, (measure, name) in zip(panels, PANELS.items(), strict=True):
        ends = _lines(axes, table.dropna(subset=[measure]), group, measure)
        axes.set_title(name)
        axes.set_xlabel("session")
        axes.set_xlim(-0.3, table.session.max() + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].set_ylim(-3, 103)
    name_column(panels[-1], ends, 1.06, 8)
    return figure


def _lines(axes: Axes, table: pd.DataFrame, group: Group, measure: str) -> list[Label]:
    """A line with bars per method; where each ends, for its name."""
    palette, lines = colors(group), dashes(group)
    runs = table.groupby(["method", "setting"], sort=False)
    ends, count = [], runs.ngroups
    for i, (key, part) in enumerate(runs):
        method, setting = map(str, key)
        series, baseline = group.series(method, setting), group.is_baseline(method)
        color = palette[series]
        x = part.session.to_numpy(float) + DODGE * (i - (count - 1) / 2)
        y, half = part[measure].to_numpy(float), np.nan_to_num(part[f"{measure}_deviation"].to_numpy(float))
        axes.plot(x, y, lines[series], color=color, lw=1.0 if baseline else 1.6, alpha=0.8)
        for at, value, bar in zip(x, y, half, strict=True):
            axes.plot([at, at], [value - bar, value + bar], color=color, lw=1.0, zorder=2)
            axes.plot(at, value, "o", markersize=4.5, zorder=3, **marker_style(color, baseline))
        ends.append(Label(x[-1], y[-1], series, color))
    return ends
