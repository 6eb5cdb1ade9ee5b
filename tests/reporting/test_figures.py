"""What the pictures show: placement of labels, placeholders, grids."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from compressbench.reporting.collect import Results, collect
from compressbench.reporting.figures import quality_by_method, speedup_against_sparsity, training
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.labels import Label, place, spread
from compressbench.reporting.pictures import _class_grid
from compressbench.reporting.published import read_published
from compressbench.reporting.style import styled
from compressbench.reporting.summary import summarize


def with_method(report: SimpleNamespace, method: str) -> tuple[Group, pd.DataFrame, Results]:
    """What a figure of the method's group is drawn from."""
    results = collect(report.results, "desk", report.runs, None)
    group = next(g for g in group_runs(report.runs, report.declarations) if method in g.methods)
    return group, summarize(results, group, read_published(report.root / "methods", report.declarations)), results


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


def test_a_task_that_does_not_validate_gets_no_empty_panels(report: SimpleNamespace) -> None:
    group, summary, results = with_method(report, "ddtb")
    panels = training(group, summary, results).axes
    without = replace(results, history=results.history.assign(quality=np.nan))
    assert len(panels) == 2 * len(training(group, summary, without).axes) > 0


def test_all_rows_of_a_method_have_its_colour(report: SimpleNamespace) -> None:
    group, summary, results = with_method(report, "one_by_n")
    rows = {name for name, method in zip(summary.series, summary.method, strict=True) if method == "one_by_n"}
    labels = [label for panel in quality_by_method(group, summary, results).axes for label in panel.get_yticklabels()]
    own, others = ({x.get_color() for x in labels if (x.get_text() in rows) is inside} for inside in (True, False))
    assert len(rows) > 2 and len(own) == 1 and others == {"#444444"}


def test_the_legend_of_several_panels_covers_none_of_them(report: SimpleNamespace) -> None:
    group, summary, results = with_method(report, "one_by_n")
    with styled():
        figure = speedup_against_sparsity(group, summary, results)
        figure.draw_without_rendering()
    words = [text.get_window_extent() for legend in figure.legends for text in legend.get_texts()]
    panels = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    assert len(words) == 2 and len(panels) > 1
    assert not any(text.overlaps(box) for text in words for box in panels)


def test_synthetic_grid_has_a_row_per_class(report: SimpleNamespace) -> None:
    path = report.results / "desk/fashion_mnist/resnet8/intraq/w4a4/seed0/synthesize/synthetic.safetensors"
    grid, classes = _class_grid(path)  # type: ignore[misc]
    assert classes == list(range(10)) and grid.shape == (10 * 30, 6 * 30)
    assert grid.min() >= 0 and grid.max() <= 1


def test_damaged_synthetic_images_do_not_stop_the_report(tmp_path: Path) -> None:
    (tmp_path / "synthetic.safetensors").write_bytes(b"\x10\x00")
    assert _class_grid(tmp_path / "synthetic.safetensors") is None


def test_pictures_have_the_resolution_of_print(report: SimpleNamespace) -> None:
    for path in (report.out / "figures").glob("*.png"):
        picture = Image.open(path)
        assert picture.width == 1360 and round(picture.info["dpi"][0]) == 200
