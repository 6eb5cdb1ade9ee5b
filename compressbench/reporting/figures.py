"""A figure per question. Each function returns a figure, also without data: then it says what is missing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from compressbench.reporting.collect import Results
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import Group, is_number
from compressbench.reporting.labels import Label, name_column, place
from compressbench.reporting.style import (
    FAINT,
    GREY,
    colors,
    dashes,
    level_legend,
    level_markers,
    marker_style,
    method_colors,
    new_figure,
    placeholder,
)
from compressbench.reporting.summary import level_order, main_variants

SEEDS = "Vertical bars: lowest and highest seed. Hollow grey: baselines."
CONTROLS = " Controls that were run at one level only: see quality by method."


class Cost(NamedTuple):
    """What a quality is drawn against."""

    column: str
    title: str
    axis: str
    hint: str


LEFT, RIGHT = "Better is up and left.", "Better is up and right."
BYTES = Cost("stored_bytes", "Quality against stored size", "stored size ({}B, logarithmic)", LEFT)
MACS = Cost("macs", "Quality against arithmetic", "multiply-accumulates per image ({}, logarithmic)", LEFT)
BIT_OPERATIONS = Cost(
    "bit_operations", "Quality against arithmetic", "bit-operations per image ({}, logarithmic)", LEFT
)
SPEEDUP = Cost("best_speedup", "Quality against measured speed-up", "speed-up over dense (one thread)", RIGHT)
PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9}
MANY = 8  # curves from which on a figure needs columns of names
WORDS = {"k": "thousands", "M": "millions", "G": "billions"}


def quality_against(group: Group, summary: pd.DataFrame, results: Results, cost: Cost) -> Figure:
    """Curves of one series each over its levels of compression; the dense network as a star, bicubic as a line."""
    title = cost.title
    drawn = summary[summary[cost.column].notna() & summary.quality.notna()] if len(summary) else summary
    if drawn.empty or drawn.reference.all():
        return placeholder(
            title,
            group.title,
            "no compressed model has " + ("a measured latency" if cost is SPEEDUP else "been evaluated"),
        )
    levels = level_order(drawn)
    markers, palette, lines = level_markers(levels), colors(group), dashes(group)
    prefix, unit = unit_of(drawn[cost.column]) if cost is not SPEEDUP else ("", 1.0)
    floor = quality_floor(drawn.quality)
    runtime = next((e for e in drawn.runtime if e), "")
    how = (
        f"\nOne image, one thread. Dense on {runtime}, where it is fastest, over each compressed model on the "
        "runtime where that one is fastest; horizontal bars: 95 % interval."
    )
    many = drawn.series.nunique() > MANY
    note = f"{cost.hint} {SEEDS}{CONTROLS if many else ''}{how if cost is SPEEDUP else ''}"
    figure = new_figure(5.4 if many else 4.5, title, group.title, note)
    axes = figure.add_subplot()
    spread = _seed_range(results.runs, group)
    labels: list[Label] = []
    curves: list[tuple[np.ndarray, np.ndarray, str, str]] = []
    obstacles: list[np.ndarray] = []
    below = 0
    points = drawn[~drawn.reference]
    if many:
        points = main_variants(points)
        drawn = pd.concat([drawn[drawn.reference], points])
    points = points.assign(order=lambda t: t.level.map({v: i for i, v in enumerate(levels)}))
    for series, part in points.groupby("series", sort=False):
        part = part.sort_values("order")
        baseline = bool(part.baseline.iloc[0])
        x, y, color = part[cost.column].to_numpy() / unit, part.quality.to_numpy(), palette[str(series)]
        axes.plot(x, y, lines[str(series)], color=color, lw=1.0, alpha=0.65, zorder=2)
        for row, a, b in zip(each(part), x, y, strict=True):
            if b < floor:
                off_scale(axes, a, floor, b, color, below)
                below += 1
                continue
            low, high = spread[row.method, row.setting]
            axes.plot([a, a], [low, high], color=color, lw=1.0, zorder=2)
            if cost is SPEEDUP:
                axes.plot([row.best_low, row.best_high], [b, b], color=color, lw=1.0, zorder=2)
                obstacles.append(np.column_stack([np.linspace(row.best_low, row.best_high, 7), np.full(7, b)]))
            axes.plot(a, b, marker=markers[row.level], markersize=6, zorder=3, **marker_style(color, baseline))
        seen = y >= floor if (y >= floor).any() else y == y.max()
        curves.append((x[seen], y[seen].clip(floor), str(series), color))
        obstacles.append(_samples(x, y, log=cost is not SPEEDUP))
    _references(axes, drawn[drawn.reference], cost.column, unit, labels, obstacles)
    if cost is SPEEDUP:
        axes.axvline(1, color=FAINT, lw=1, zorder=1)
    else:
        log_axis(axes)
    axes.set_xlabel(cost.axis.format(prefix if cost is BYTES else WORDS.get(prefix)))
    axes.set_ylabel(group.quality)
    axes.margins(x=0.14, y=0.12)
    if drawn.quality.min() < floor:
        best = drawn.quality.max()
        axes.set_ylim(floor, best + 0.12 * (best - floor))
    level_legend(axes, {group.level_name(k): m for k, m in markers.items()})
    if many and cost is not SPEEDUP:
        _label_columns(axes, curves, drawn[drawn.method.map(group.is_dense)].quality.min())
    else:
        labels += [_end_label(*curve, turn) for turn, curve in enumerate(curves)]
    place(axes, labels, np.vstack(obstacles))
    return figure


def curves(
    axes: Axes,
    table: pd.DataFrame,
    column: str,
    group: Group,
    floor: float,
    place_at: Callable[[np.ndarray, float], np.ndarray],
) -> list[Label]:
    """Draw the quality of every series over `column` with its interval; where each ends, at the smallest value, for its name.

    `place_at` turns values into positions, given how far the series is from the middle one, so that neighbouring
    intervals do not cover each other.
    """
    palette, lines = colors(group), dashes(group)
    ends: list[Label] = []
    below = 0
    names = list(dict.fromkeys(table.series))
    for i, series in enumerate(names):
        part = table[table.series == series].sort_values(column, ascending=False)
        x = place_at(part[column].to_numpy(), i - (len(names) - 1) / 2)
        color, baseline = palette[series], bool(part.baseline.iloc[0])
        axes.plot(x, part.quality.clip(floor), lines[series], color=color, lw=1.0 if baseline else 1.5, alpha=0.8)
        for at, row in zip(x, each(part), strict=True):
            if row.quality < floor:
                off_scale(axes, at, floor, row.quality, color, below)
                below += 1
                continue
            axes.plot([at, at], [row.quality_low, row.quality_high], color=color, lw=1.0, zorder=2)
            axes.plot(at, row.quality, "o", markersize=4.5, zorder=3, **marker_style(color, baseline))
        ends.append(Label(x[-1], max(floor, float(part.quality.iloc[-1])), series, color))
    return ends


def quality_by_method(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """Dot plot: a block per level, a row per series, single seeds as small dots, the interval as a line."""
    title = "Quality by method"
    points = summary[~summary.reference & summary.quality.notna()] if len(summary) else summary
    if points.empty:
        return placeholder(title, group.title, "no compressed model has been evaluated")
    levels = level_order(points)
    palette = method_colors(group)
    note = (
        "Large: mean. Small: single seeds. Line: 95 % t-interval of the mean; an arrow: it goes on beyond the axis.\n"
        "Hollow grey: baselines. Vertical lines: the dense network, and baselines without a strength to choose."
    )
    figure = new_figure(1.45 + 0.23 * (len(points) + 0.9 * len(levels)), title, group.title, note)
    counts = [int((points.level == level).sum()) for level in levels]
    panels = figure.subplots(
        len(levels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [c + 0.6 for c in counts]}
    )[:, 0]
    seeds = of_group(results.runs, group)
    shown = seeds.merge(summary[["method", "setting"]], on=["method", "setting"]).quality
    floor = quality_floor(summary.quality)
    margin = 0.06 * (shown.max() - max(floor, shown.min()) or 1.0)
    left, right = max(floor, shown.min()) - margin, shown.max() + margin
    for panel, level in zip(panels, levels, strict=True):
        rows = points[points.level == level].sort_values("quality")
        for y, row in enumerate(each(rows)):
            color = palette[row.method]
            own = seeds[(seeds.method == row.method) & (seeds.setting == row.setting)].quality
            if row.quality < left:
                panel.annotate(
                    f"◂ {row.quality:.2f}",
                    (left, y),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=color,
                )
                continue
            if is_number(row.quality_low):
                _clipped_line(panel, y, row.quality_low, row.quality_high, left, right, color)
            panel.plot(own, np.full(len(own), y), "o", markersize=2.2, color=color, alpha=0.8, zorder=3)
            panel.plot(row.quality, y, "o", markersize=6.5, zorder=4, **marker_style(color, row.baseline))
        for row in each(summary[summary.reference]):
            panel.axvline(
                row.quality,
                color="#999999",
                lw=1,
                ls="--" if row.baseline and not group.is_dense(row.method) else "-",
                zorder=1,
            )
        panel.set_yticks(range(len(rows)), list(rows.series), fontsize=8.5)
        for tick, row in zip(panel.get_yticklabels(), each(rows), strict=True):
            tick.set_color(palette[row.method] if not row.baseline else "#444444")
        panel.set_ylim(-0.6, len(rows) - 0.4)
        panel.set_title(group.level_name(level), fontsize=9, pad=3)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", visible=False)
    panels[0].set_xlim(left, right)
    for i, row in enumerate(each(summary[summary.reference])):
        panels[0].annotate(
            f"{row.series} {row.quality:.2f}",
            (row.quality, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 10 * i),
            textcoords="offset points",
            ha="right" if row.quality > (left + right) / 2 else "left",
            fontsize=8,
            color="#666666",
        )
    panels[-1].set_xlabel(group.quality)
    return figure


def training(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """Training loss and validation quality over each method's own training, one row of panels per level."""
    title = "Training curves"
    history = of_group(results.history, group)
    if history.empty:
        return placeholder(title, group.title, "no method has a training history")
    keys = ["method", "setting", "seed"]
    history = history[history.groupby(keys).epoch.transform("size") > 1].copy()
    if history.empty:
        return placeholder(title, group.title, "no history is longer than one epoch")
    history["step"] = history.groupby(keys).cumcount() + 1
    history["progress"] = 100 * history.step / history.groupby(keys).step.transform("max")
    history["level"] = [group.levels[m, s].name for m, s in zip(history.method, history.setting, strict=True)]
    trained = set(history[~history.method.map(group.is_reference)].level)
    levels = [level for level in (level_order(summary) or sorted(trained)) if level in trained] or sorted(
        set(history.level)
    )
    levels = levels[-3:]
    note = (
        "Mean over seeds. 0 to 100 %: each method's own training (compress and fine-tune stages); lengths differ.\n"
        "Methods without training have no curve. Grey: baselines; black: dense."
    )
    columns = {
        "loss": "training loss",
        "quality": f"validation {'PSNR (dB)' if group.metric == 'psnr' else 'top-1 (%)'}",
    }
    columns = {column: name for column, name in columns.items() if history[column].notna().any()}
    if not columns:
        return placeholder(title, group.title, "no history has a loss or a validation")
    figure = new_figure(0.9 + 2.35 * len(levels), title, group.title, note)
    panels = figure.subplots(len(levels), len(columns), squeeze=False, sharex=True)
    palette, lines = colors(group), dashes(group)
    for row, level in zip(panels, levels, strict=True):
        chosen = history[(history.level == level) | history.method.map(group.is_dense)]
        ends: dict[Axes, list[Label]] = {axes: [] for axes in row}
        for key, part in chosen.groupby(["method", "setting"], sort=False):
            method, setting = map(str, key)
            series = group.series(method, setting)
            color = "black" if group.is_dense(method) else palette[series]
            for axes, column in zip(row, columns, strict=True):
                mean = part.groupby("progress")[column].mean().dropna()
                if len(mean):
                    axes.plot(
                        mean.index, mean, lines[series], color=color, lw=1.0 if group.is_baseline(method) else 1.6
                    )
                    ends[axes].append(Label(100, float(mean.iloc[-1]), series, color))
        for axes, (column, name) in zip(row, columns.items(), strict=True):
            axes.set_title(f"{group.level_name(level)}: {name}" if len(levels) > 1 else name)
            _zoom(axes, chosen[column], top=column == "loss")
            axes.set_xlim(0, 100)
        name_column(row[-1], ends[row[-1]], 1.06 if len(row) > 1 else 1.03, 6.8)
    for axes in panels[-1]:
        axes.set_xlabel("training done (%)")
    return figure


def speedup_against_sparsity(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """Measured speed-up of each runtime (one thread) over the removed part of the arithmetic, with the ideal line."""
    title = "Measured speed-up against sparsity"
    latency = of_group(results.latency, group)
    latency = latency[latency.threads == 1]
    if latency.empty or summary.empty:
        return placeholder(title, group.title, "no latency has been measured")
    runtimes = list(latency.groupby("runtime").speedup.max().sort_values(ascending=False).index)[:4]
    dense_macs = summary.dense_macs.max()
    points = (
        summary[~summary.reference]
        .assign(macs_removed=lambda t: 100 * (1 - t.macs / dense_macs))
        .drop(columns="speedup")
    )
    note = (
        "A panel per runtime; each compares with the dense network on the same runtime. One image, one thread. "
        "Below the line at 1×, the compressed model is slower.\n"
        "Ideal: the time falls like the multiply-accumulates that are left. Bars: 95 % interval of the ratio. "
        "Hollow grey: baselines."
    )
    rows = (len(runtimes) + 1) // 2
    figure = new_figure(1.4 + 2.5 * rows, title, group.title, note)
    grid = figure.subplots(rows, min(2, len(runtimes)), sharey=True, sharex=True, squeeze=False)
    panels = list(grid.flat)[: len(runtimes)]
    for empty in list(grid.flat)[len(runtimes) :]:
        empty.set_visible(False)
    palette, markers = method_colors(group), level_markers(level_order(points))
    top = max(latency.high.max() * 1.25, min(20.0, 130 / (100 - points.macs_removed.max())))
    ideal = np.linspace(0, 99.5, 400)
    curve = np.column_stack([ideal, 100 / (100 - ideal)])
    curve = curve[curve[:, 1] < top]
    todo: list[tuple[Axes, list[Label], np.ndarray]] = []
    for axes, runtime in zip(panels, runtimes, strict=True):
        own = (
            latency[latency.runtime == runtime]
            .groupby(["method", "setting"])
            .agg({"speedup": "median", "low": "min", "high": "max"})
        )
        shown = points.merge(own.reset_index(), on=["method", "setting"])
        axes.plot(*curve.T, color="#333333", lw=1, ls="--")
        axes.axhline(1, color=GREY, lw=0.8)
        for row in each(shown):
            color = palette[row.method]
            axes.plot([row.macs_removed] * 2, [row.low, row.high], color=color, lw=1)
            axes.plot(
                row.macs_removed,
                row.speedup,
                markers[row.level],
                markersize=5.5,
                zorder=2 if row.baseline else 3,
                **marker_style(color, row.baseline),
            )
        middle = curve[len(curve) * 3 // 5]
        names = [Label(middle[0], middle[1], "ideal: 1 / density", "#333333"), *_speedup_labels(group, shown, palette)]
        todo.append((axes, names, np.vstack([shown[["macs_removed", "speedup"]].to_numpy(float), curve])))
        axes.set_title(runtime)
    axes.set_xlim(min(0.0, points.macs_removed.min() - 5), 104)
    axes.set_yscale("log")
    axes.set_ylim(min(0.45, latency.low.min() * 0.85), top)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for row in grid:
        row[0].set_ylabel("speed-up (logarithmic)")
    for axes in panels[-2:]:
        axes.set_xlabel("multiply-accumulates removed (%)")
        axes.tick_params(labelbottom=True)
    level_legend(panels[0], {group.level_name(k): m for k, m in markers.items()}, panels=True)
    for axes, names, obstacles in todo:
        place(axes, names, obstacles)
    return figure


def _speedup_labels(group: Group, shown: pd.DataFrame, palette: dict[str, str]) -> list[Label]:
    """A name per method at its strongest level."""
    own = shown[~shown.baseline].sort_values("macs_removed", ascending=False).drop_duplicates("method")
    return [Label(row.macs_removed, row.speedup, group.short(row.method), palette[row.method]) for row in each(own)]


def _seed_range(runs: pd.DataFrame, group: Group) -> dict[Any, tuple[float, float]]:
    """(method, setting) -> lowest and highest quality."""
    ranges = of_group(runs, group).groupby(["method", "setting"]).quality.agg(["min", "max"])
    return {key: (float(row["min"]), float(row["max"])) for key, row in ranges.iterrows()}


def _end_label(x: np.ndarray, y: np.ndarray, text: str, color: str, turn: int) -> Label:
    """Labels go to alternating ends of the curves, so that they spread over the plot."""
    i = 0 if turn % 2 else -1
    return Label(float(x[i]), float(y[i]), text, "#555555" if color == GREY else color)


def _samples(x: np.ndarray, y: np.ndarray, log: bool) -> np.ndarray:
    """[K, 2]: the points of a polyline and samples between them."""
    across = np.log(x) if log else x
    position = np.linspace(0, len(x) - 1, 12 * max(1, len(x) - 1) + 1)
    index = np.arange(len(x))
    between = np.interp(position, index, across)
    return np.column_stack([np.exp(between) if log else between, np.interp(position, index, y)])


def _references(
    axes: Axes, rows: pd.DataFrame, column: str, unit: float, labels: list[Label], obstacles: list[np.ndarray]
) -> None:
    """The dense network as a star at its cost; what has no network (bicubic) as a horizontal line."""
    for row in each(rows):
        x = getattr(row, column) / unit
        if is_number(row.params) and row.params > 0:
            axes.plot(x, row.quality, "*", color="black", markersize=10, zorder=4)
            labels.append(Label(x, row.quality, row.series, "black"))
            obstacles.append(np.array([[x, row.quality]]))
        else:
            axes.axhline(row.quality, color=GREY, lw=1, ls="--", zorder=1)
            axes.annotate(
                row.series,
                (1, row.quality),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                ha="right",
                textcoords="offset points",
                fontsize=8,
                color="#555555",
            )


def unit_of(values: pd.Series) -> tuple[str, float]:
    """The largest prefix that leaves the smallest positive value at 0.5 or above."""
    smallest = values[values > 0].min()
    return max(((p, f) for p, f in PREFIXES.items() if f <= 2 * smallest), key=lambda x: x[1], default=("k", 1e3))


def quality_floor(quality: pd.Series) -> float:
    """Where to cut the axis: a collapsed network must not squeeze all others into a corner."""
    best = quality.max()
    return float(best - 5 * (best - quality.median()))


def off_scale(axes: Axes, x: float, floor: float, value: float, color: str, line: int = 0) -> None:
    """A value below the axis, as text at its lower edge, above `line` others."""
    axes.annotate(
        f"{value:.2f} ▾",
        (x, floor),
        xytext=(0, 3 + 9 * line),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
        color=color,
    )


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers, and enough of them when it spans little."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _clipped_line(axes: Axes, y: float, low: float, high: float, left: float, right: float, color: str) -> None:
    """An interval; a triangle where it leaves the axis."""
    axes.plot([max(low, left), min(high, right)], [y, y], color=color, lw=1.1, alpha=0.6, zorder=2)
    for beyond, x, marker in ((low < left, left, "<"), (high > right, right, ">")):
        if beyond:
            axes.plot(x, y, marker, color=color, markersize=4, alpha=0.8, clip_on=False, zorder=2)


def _zoom(axes: Axes, values: pd.Series, top: bool) -> None:
    """Cut off the first, large values of a curve, which would flatten everything else."""
    known = values.dropna()
    if known.empty:
        axes.text(0.5, 0.5, "not validated during training", transform=axes.transAxes, ha="center", color=GREY)
        return
    low, high = known.min(), known.max()
    if top:
        high = min(high, known.quantile(0.97))
    else:
        low = max(low, known.quantile(0.06))
    margin = 0.06 * (high - low or 1.0)
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _label_columns(axes: Axes, curves: list[tuple[np.ndarray, np.ndarray, str, str]], below: float) -> None:
    """Many curves: names in two columns, right of those that reach the largest cost, left of the others."""
    low, high = min(c[0].min() for c in curves), max(c[0].max() for c in curves)
    right = [
        Label(x[-1], y[-1], text, color) for x, y, text, color in (_by_cost(c) for c in curves) if x[-1] > 0.8 * high
    ]
    left = [
        Label(x[0], y[0], text, color) for x, y, text, color in (_by_cost(c) for c in curves) if x[-1] <= 0.8 * high
    ]
    span = np.log(axes.get_xlim()[1] / low)
    axes.set_xlim(left=low * np.exp(-span * (0.55 if left else 0.06)))
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    for names, x, is_left in ((right, high, False), (left, low, True)):
        at = axes.transAxes.inverted().transform(axes.transData.transform((x, 0)))[0]
        name_column(axes, names, float(at) + (-0.04 if is_left else 0.04), 7.5, left=is_left, below=below)


def _by_cost(curve: tuple[np.ndarray, np.ndarray, str, str]) -> tuple[np.ndarray, np.ndarray, str, str]:
    order = np.argsort(curve[0], kind="stable")
    return curve[0][order], curve[1][order], curve[2], curve[3]
