"""Tests of the figures that every group has."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from compressbench.reporting.figures import quality_by_method, speedup_against_sparsity, training
from compressbench.reporting.style import styled
from tests.reporting.parts import with_method


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
