"""Quality against sparsity, the overlap of masks, and steps to the same quality."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from compressbench.reporting.collect import Results, collect
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.published import read_published
from compressbench.reporting.sparsity import mask_overlap, overlap, overlap_by_chance, quality_against_sparsity
from compressbench.reporting.summary import summarize
from compressbench.reporting.tables import time_to_quality


@pytest.fixture(scope="module")
def results(report: SimpleNamespace) -> Results:
    return collect(report.results, "desk", report.runs, None)


def group_of(report: SimpleNamespace, model: str) -> Group:
    return next(g for g in group_runs(report.runs, report.declarations) if g.model == model)


def summary_of(report: SimpleNamespace, results: Results, group: Group) -> pd.DataFrame:
    return summarize(results, group, read_published(report.root / "methods", report.declarations))


def test_overlap_is_what_two_masks_share_of_what_one_keeps() -> None:
    a = {"x": np.array([True, True, False, False]), "y": np.array([True, False])}
    b = {"x": np.array([True, False, True, False]), "y": np.array([True, True])}
    assert overlap(a, a) == 1
    assert overlap(a, b) == overlap(b, a) == 2 / 3.5
    assert overlap_by_chance(a, b) == (2 * 2 / 4 + 1 * 2 / 2) / 3.5
    assert overlap(a, b | {"z": np.array([True])}) == overlap(a, b)  # layers that one of them has alone do not count
    assert overlap({}, {}) == 0


def test_masks_by_lot_share_what_chance_says() -> None:
    rng = np.random.default_rng(0)
    a, b = ({"x": rng.random(100_000) < 0.1, "y": rng.random(100_000) < 0.5} for _ in range(2))
    assert overlap(a, b) == pytest.approx(overlap_by_chance(a, b), abs=0.01)


def test_the_matrix_has_what_is_shared_below_the_diagonal_and_chance_above(
    report: SimpleNamespace, results: Results
) -> None:
    group = group_of(report, "resnet_mini")
    axes = mask_overlap(group, summary_of(report, results, group), results).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "OptG" and {"SNIP", "Random", "Gradual magnitude"} < set(names)
    cells = {(int(t.get_position()[1]), int(t.get_position()[0])): t for t in axes.texts}
    assert set(cells) == {(i, j) for i in range(len(names)) for j in range(len(names)) if i != j}
    for (i, j), text in cells.items():
        assert text.get_style() == ("italic" if i < j else "normal")
        assert (
            float(text.get_text()) <= 5
        )  # masks at random that keep 2 %: the sparsest level has as many series as others


def test_masks_that_cannot_be_read_leave_a_picture_that_says_so(report: SimpleNamespace, results: Results) -> None:
    group = group_of(report, "resnet_mini")
    nowhere = replace(results, root=results.root / "nowhere")
    figure = mask_overlap(group, summary_of(report, results, group), nowhere)
    assert any("No picture yet" in text.get_text() for text in figure.texts)


def test_without_any_result_there_is_no_picture_yet(report: SimpleNamespace, results: Results) -> None:
    figure = mask_overlap(group_of(report, "resnet_mini"), pd.DataFrame(), results)
    assert any("No picture yet" in text.get_text() for text in figure.texts)


def test_curves_over_sparsity_have_a_panel_per_family(report: SimpleNamespace, results: Results) -> None:
    group = group_of(report, "plain_mini")
    summary = summary_of(report, results, group)
    panels = quality_against_sparsity(group, summary, results).axes
    assert [p.get_title() for p in panels] == ["Unstructured pruning", "Block pruning"]
    named = {t.get_text() for t in panels[1].texts}
    assert {name for name in named if name.startswith("1×N")} == set(summary[summary.method == "one_by_n"].series)
    left, right = panels[0].get_xlim()
    assert left > 25 > 10 > right  # % kept: sparser to the right


def test_variants_at_one_sparsity_are_left_to_the_table(report: SimpleNamespace, results: Results) -> None:
    group = group_of(report, "plain_mini")
    summary = summary_of(report, results, group)
    shorter = summary[~((summary.setting == "n4_p75") & (summary.method == "one_by_n"))]
    named = {t.get_text() for t in quality_against_sparsity(group, shorter, results).axes[1].texts}
    gone = set(summary[(summary.setting == "n4_p75") & (summary.method == "one_by_n")].series)
    assert len(gone) == 1 and not gone & named


def test_steps_to_a_quality_go_through_both_stages_and_need_every_seed(
    report: SimpleNamespace, results: Results
) -> None:
    group = group_of(report, "resnet_mini")
    same = {"dataset": "fashion_mnist", "model": "resnet_mini", "method": "optg", "setting": "p95"}
    curves = {0: [80.0, 87.0, 90.0, 92.0], 1: [70.0, 85.0, 86.0, 90.0]}
    rows = [
        same | {"seed": seed, "stage": "compress" if i < 2 else "finetune", "steps": 50 * (i % 2 + 1), "quality": value}
        for seed, curve in curves.items()
        for i, value in enumerate(curve)
    ]
    table, text = time_to_quality(group, replace(results, history=pd.DataFrame(rows)))
    (row,) = table.to_dict("records")
    assert row["steps"] == 200
    assert (row["behind_8"], row["behind_4"]) == ((100 + 100) / 2, (100 + 200) / 2)  # the best is 91: 83 and 87
    assert row["behind_2"] == (150 + 200) / 2 and row["behind_1"] == (150 + 200) / 2
    assert "| to 83.0 |" in text
    for row in rows:
        row["quality"] = row["quality"] if row["seed"] == 0 else 78.0
    again, _ = time_to_quality(group, replace(results, history=pd.DataFrame(rows)))
    assert np.isnan(again.behind_1.item())


def test_no_history_is_no_table(report: SimpleNamespace, results: Results) -> None:
    group = group_of(report, "resnet_mini")
    table, text = time_to_quality(group, replace(results, history=results.history.iloc[:0]))
    assert table.empty and "No results yet" in text
