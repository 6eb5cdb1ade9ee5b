"""Tests of the placement of labels."""

from itertools import combinations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from compressbench.reporting.labels import Label, place, spread


def test_labels_cover_neither_each_other_nor_points() -> None:
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    points = np.random.default_rng(0).uniform(0.4, 0.6, (12, 2))
    axes.plot(*points.T, "o")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    place(axes, [Label(x, y, f"method {i}", "black") for i, (x, y) in enumerate(points)], points)
    figure.draw_without_rendering()
    extents = [Text.get_window_extent(text, FigureCanvasAgg(figure).get_renderer()) for text in axes.texts]
    assert len(extents) == 12
    assert not any(a.overlaps(b) for a, b in combinations(extents, 2))
    pixels = axes.transData.transform(points)
    assert not any(box.contains(x, y) for box in extents for x, y in pixels)


def test_spread_keeps_order_and_distance() -> None:
    placed = spread(np.array([0.0, 0.1, 0.1, 0.95, 1.0]), 0.2, 0.0, 1.0)
    assert (np.diff(placed) >= 0.2 - 1e-9).all() and placed.min() >= -1e-9 and placed.max() <= 1 + 1e-9
    crowded = spread(np.zeros(9), 0.2, 0.0, 1.0)
    assert crowded[0] == 0 and crowded[-1] == 1 and (np.diff(crowded) > 0).all()
