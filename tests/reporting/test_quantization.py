"""Quality against bits, and the diversity of synthetic images."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.config.levels import NONE, level
from compressbench.plan import Run
from compressbench.reporting.collect import Results, collect
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.published import read_published
from compressbench.reporting.quantization import PANELS, _distances, _width, _with_bits, diversity, quality_against_bits
from compressbench.reporting.summary import summarize


@pytest.fixture(scope="module")
def results(report: SimpleNamespace) -> Results:
    return collect(report.results, "desk", report.runs, None)


@pytest.fixture(scope="module")
def group(report: SimpleNamespace) -> Group:
    return next(g for g in group_runs(report.runs, report.declarations) if g.model == "resnet8")


@pytest.fixture(scope="module")
def summary(report: SimpleNamespace, results: Results, group: Group) -> pd.DataFrame:
    return summarize(results, group, read_published(report.root / "methods", report.declarations))


def test_a_level_says_how_many_bits_of_what() -> None:
    assert _width(level("bits", 4, 4)) == ("bits", 4) and PANELS["bits"] == "weights and activations"
    assert _width(level("bits", 3, 3)) == ("bits", 3)
    assert _width(level("weight_bits", 6)) == ("weight_bits", 6) and PANELS["weight_bits"] == "weights only"
    assert _width(level("weight_bits", 2, 6)) == ("weight_bits", 2)
    for other in (level("bits", 6, 8), level("filters", 0.3), NONE):
        assert _width(other)[0] == ""


def test_every_point_stands_at_its_bits_and_fewer_bits_are_right(
    results: Results, group: Group, summary: pd.DataFrame
) -> None:
    axes = quality_against_bits(group, summary, results).axes[0]
    left, right = axes.get_xlim()
    assert left > right
    points = [(x, y) for line in axes.lines if line.get_marker() == "o" for x, y in [line.get_xydata()[0]]]
    chosen = _with_bits(group, summary, results)
    assert len(points) == len(chosen) > 3
    for row in chosen.itertuples():
        assert any(abs(x - row.bits) < 0.3 and y == pytest.approx(row.quality) for x, y in points)


def test_mixed_widths_stand_at_the_recorded_mean(results: Results, group: Group, summary: pd.DataFrame) -> None:
    row = _with_bits(group, summary, results).iloc[0]
    key = {"dataset": group.dataset, "model": group.model, "method": row.method, "setting": row.setting, "seed": 0}
    recorded = Results(**{**vars(results), "records": pd.DataFrame([key | {"name": "mean_bits", "value": 4.2}])})
    bits = _with_bits(group, summary, recorded).set_index(["method", "setting"]).bits
    assert bits[row.method, row.setting] == 4.2
    assert (bits.drop((row.method, row.setting)) != 4.2).all()


def test_diversity_has_the_real_images_beside_every_way_of_synthesizing(
    report: SimpleNamespace, results: Results, group: Group
) -> None:
    figure = diversity(group, results)
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert any("IntraQ" in name for name in names)
    run = next(r for r in report.runs if r.method == "intraq")
    described = json.loads((folder(report, run) / "synthetic.json").read_text(encoding="utf-8"))[
        "distance_within_class"
    ]
    drawn = {x for line in axes.lines for x in line.get_xdata()}
    assert {v for values in described.values() for v in values if v is not None} <= drawn


def test_without_descriptions_the_figure_says_so(tmp_path: Path, results: Results, group: Group) -> None:
    elsewhere = Results(**{**vars(results), "root": tmp_path})
    assert "No picture yet" in "".join(t.get_text() for t in diversity(group, elsewhere).texts)


def folder(report: SimpleNamespace, run: Run) -> Path:
    return report.results / run.folder("synthesize").relative_to("results")


@pytest.mark.parametrize(
    "content", [[], {"distance_within_class": 3}, {"distance_within_class": {"synthetic": ["far"]}}]
)
def test_a_description_of_another_shape_is_left_out(tmp_path: Path, content: object) -> None:
    (tmp_path / "synthetic.json").write_text(json.dumps(content), encoding="utf-8")
    synthetic, real = _distances([tmp_path])
    assert len(synthetic) == len(real) == 0
