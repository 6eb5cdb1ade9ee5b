"""Writes labels beside points so that they cover neither each other nor the points."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from compressbench.reporting.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DISTANCES = (8, 13, 20, 29, 40, 54, 70, 90)  # points
DIRECTIONS = 16
ARROW_FROM = 14  # points: from here on, a thin line connects label and point


class Label(NamedTuple):
    """A text for the point (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place(axes: "Axes", labels: Sequence[Label], obstacles: np.ndarray) -> None:
    """Greedy placement: each label takes the nearest position around its point that covers least.

    Args:
        axes: final limits and scales must be set; the figure's layout is frozen here.
        labels: one per curve.
        obstacles: [K, 2] data coordinates not to be covered (points, and samples of curves).
    """
    figure = cast("Figure", axes.figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer = FigureCanvasAgg(figure).get_renderer()
    point = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    blocked = axes.transData.transform(obstacles) if len(obstacles) else np.empty((0, 2))
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    offsets = np.array([(d * np.cos(a), d * np.sin(a)) for d in DISTANCES for a in angles])
    distance = np.hypot(*offsets.T)
    taken = np.empty((0, 4))
    anchors = axes.transData.transform([(x.x, x.y) for x in labels]) if labels else np.empty((0, 2))
    crowd = [np.sum(np.hypot(*(blocked - a).T) < 40 * point) for a in anchors]
    for i in np.argsort(crowd, kind="stable"):
        label, anchor = labels[i], anchors[i]
        text = axes.text(label.x, label.y, label.text, fontsize=8)
        size = np.array(text.get_window_extent(renderer).size)
        text.remove()
        center = anchor + offsets * point + np.sign(np.round(offsets, 6)) * size / 2 * _reach(offsets)
        boxes = np.hstack([center - size / 2 - 1.5 * point, center + size / 2 + 1.5 * point])
        cost = (
            distance
            + 40 * _inside(boxes, blocked, point)
            + 2000 * _overlap(boxes, taken)
            + 4000 * _outside(boxes, frame)
        )
        cost += 60 * _crossed(center, anchor, taken)
        best = int(np.argmin(cost))
        taken = np.vstack([taken, boxes[best]])
        arrow = {"arrowstyle": "-", "color": label.color, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=tuple((center[best] - anchor) / point),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=label.color,
            arrowprops=arrow if distance[best] >= ARROW_FROM else None,
            annotation_clip=False,
        )


def _reach(offsets: np.ndarray) -> np.ndarray:
    """How far a box is pushed along each axis (0 to 1), so that its nearest edge, not its centre, is at the offset."""
    unit = np.abs(offsets) / np.abs(offsets).max(axis=1, keepdims=True)
    return np.minimum(1.0, unit * 2)


def _inside(boxes: np.ndarray, points: np.ndarray, point: float) -> np.ndarray:
    """[B]: how many points each box covers, with a margin for the size of a marker."""
    x, y = points[:, 0], points[:, 1]
    margin = 2.5 * point
    covered = (
        (x > boxes[:, :1] - margin)
        & (x < boxes[:, 2:3] + margin)
        & (y > boxes[:, 1:2] - margin)
        & (y < boxes[:, 3:4] + margin)
    )
    return covered.sum(axis=1)


def _overlap(boxes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[B]: how many placed boxes each box touches."""
    apart = (
        (boxes[:, None, 0] > taken[:, 2])
        | (boxes[:, None, 2] < taken[:, 0])
        | (boxes[:, None, 1] > taken[:, 3])
        | (boxes[:, None, 3] < taken[:, 1])
    )
    return (~apart).sum(axis=1)


def _outside(boxes: np.ndarray, frame: object) -> np.ndarray:
    """[B]: whether a box leaves the axes."""
    x0, y0, x1, y1 = frame.extents  # type: ignore[attr-defined]
    return (boxes[:, 0] < x0) | (boxes[:, 1] < y0) | (boxes[:, 2] > x1) | (boxes[:, 3] > y1)


def _crossed(center: np.ndarray, anchor: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[B]: how many placed boxes the connecting line would cross (sampled)."""
    if not len(taken):
        return np.zeros(len(center))
    steps = np.linspace(0.15, 0.85, 8)[None, :, None]
    line = anchor + steps * (center[:, None, :] - anchor)
    x, y = line[..., 0, None], line[..., 1, None]
    hit = (x > taken[:, 0]) & (x < taken[:, 2]) & (y > taken[:, 1]) & (y < taken[:, 3])
    return hit.any(axis=1).sum(axis=1)


def name_column(
    axes: "Axes", ends: list[Label], position: float, size: float, left: bool = False, below: float = float("inf")
) -> None:
    """Names in a column at `position` (fraction of the axes), sorted like their points and pushed apart vertically.

    `below` (data) is where the column must end, because of the content above it.
    """
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_figheight() * 72  # type: ignore[union-attr]
    ordered = sorted(ends, key=lambda end: end.y)
    wanted = np.array([min(max(end.y, low), high) for end in ordered])
    gap = 1.3 * size / height * (high - low)
    placed = spread(wanted, gap, low, min(high, below - 1.5 * gap))
    for end, at, y in zip(ordered, wanted, placed, strict=True):
        axes.annotate(
            end.text,
            (end.x, at),
            xytext=(position, (y - low) / (high - low)),
            textcoords="axes fraction",
            fontsize=size,
            ha="right" if left else "left",
            va="center",
            color="#555555" if end.color == GREY else end.color,
            annotation_clip=False,
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            arrowprops={
                "arrowstyle": "-",
                "color": end.color,
                "lw": 0.4,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (left, 0.5),
            },
        )


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions near `wanted` (ascending) that are at least `gap` apart; evenly spread where there are too many."""
    if (len(wanted) - 1) * gap > high - low:
        return np.linspace(low, high, len(wanted))
    steps = np.arange(len(wanted)) * gap
    pushed_up = np.maximum.accumulate(wanted - steps)
    pushed_down = np.minimum.accumulate((wanted - steps)[::-1])[::-1]
    return np.clip((pushed_up + pushed_down) / 2, low, high - steps[-1:]) + steps
