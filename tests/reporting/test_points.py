"""Models with several operating points: a row per point, and the files of all other models as they were."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting import outputs, write
from compressbench.reporting.collect import collect
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.points import operating_points, random_share
from compressbench.reporting.summary import level_order, summarize
from tests.reporting.conftest import METHODS, save, write_run

POINTS = {"min": "smallest", **{f"t{i}": f"0.{i} MMACs" for i in range(1, 10)}, "max": "largest"}


def declare(title: str, package: str, settings: dict[str, str]) -> Declaration:
    content = {
        "title": title, "paper": "arXiv", "family": "adaptive", "task": ["classification"], "stages": ["compress"],
        "starts_from": "scratch", "settings": {s: {"variant": words} for s, words in settings.items()},
    }  # fmt: skip
    return Declaration.model_validate(content).model_copy(update={"package": package})


def write_points(root: Path, run: Run, lead: float) -> None:
    """The files of a run whose networks gain `lead` points over the baseline, the more the larger they are."""
    metrics: dict[str, dict] = {}
    times: dict[str, dict] = {}
    for i, (point, label) in enumerate(POINTS.items()):
        macs, size = 1e5 + 5e4 * i, 60_000 - 3_000 * (i % 3)  # bytes say nothing about the order
        metrics[point] = {
            "label": label, "quality": {"top1": 86 + lead + 0.3 * i + 0.1 * run.seed}, "params": size // 4,
            "weights": size // 4, "kept_weights": size // 4, "macs": macs, "dense_macs": macs,
            "bit_operations": macs * 1024, "stored_bytes": size,
        }  # fmt: skip
        speedup = 6e5 / macs
        times[point] = {
            "batch": 1, "measurements": [{
                "runtime": "torch_eager", "threads": 1, "library": "x", "isa": "y", "rounds": 30,
                "dense_ms": {"median": 0.6, "minimum": 0.5}, "compressed_ms": {"median": 0.6 / speedup, "minimum": 0.1},
                "speedup": {"median": speedup, "low": speedup * 0.97, "high": speedup * 1.03},
            }], "skipped": [{"runtime": "compressbench", "reason": "nothing is masked"}],
        }  # fmt: skip
    save(root, run, "evaluate", "metrics.json", {"points": metrics, "stored_bytes": 60_000})
    switching = {"switch_ms": {"median": 0.7, "minimum": 0.6}, "reload_ms": {"median": 9.0, "minimum": 8.0}}
    save(root, run, "latency", "latency.json", {"points": times, "switching": switching})


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("adaptive")
    declarations = {
        "pss": declare("PSS-Net", "methods.pss", {"best": "best", "worst": "worst"}),
        "uniform": declare("Uniform sampling", "methods.baselines.uniform", {"random": "random"}),
    }
    runs = [
        Run("desk", "fashion_mnist", "resnet_mini", m, s, seed)
        for m, d in declarations.items()
        for s in d.settings
        for seed in (0, 1)
    ]
    for run in runs:
        write_points(root / "results", run, {"best": 0.8, "worst": 0.4, "random": 0.0}[run.setting])
    dense = Declaration.model_validate(
        declare("Dense", "", {"checkpoint": "pretrained"}).model_dump() | {"family": "dense"}
    ).model_copy(update={"package": "methods.baselines.dense"})
    for seed in (0, 1):
        runs.append(Run("desk", "fashion_mnist", "resnet_mini", "dense", "checkpoint", seed))
        write_run(root / "results", runs[-1])
    declarations["dense"] = dense
    assert "dense" in METHODS
    results = collect(root / "results", "desk", runs)
    (group,) = group_runs(runs, declarations, results.points)
    return SimpleNamespace(root=root, runs=runs, declarations=declarations, results=results, group=group)


def test_a_row_per_point(adaptive: SimpleNamespace) -> None:
    runs = adaptive.results.runs
    assert len(runs) == 2 * (3 * len(POINTS) + 1)
    assert {"best@min", "worst@t3", "random@max", "checkpoint"} <= set(runs.setting)
    assert set(adaptive.results.latency[adaptive.results.latency.method == "pss"].setting) == {
        f"{s}@{p}" for s in ("best", "worst") for p in POINTS
    }


def test_points_have_readable_names(adaptive: SimpleNamespace) -> None:
    group: Group = adaptive.group
    assert group.settings["uniform"] == [f"random@{p}" for p in POINTS]
    assert (
        group.label("uniform", "random@t3") == "0.3 MMACs"
        and group.series("uniform", "random@t3") == "Uniform sampling"
    )
    assert group.label("pss", "best@t3") == "best, 0.3 MMACs" and group.series("pss", "best@max") == "PSS-Net, best"
    assert group.series("pss", "best") == "PSS-Net, best"  # of the training, which has no point
    assert group.levels["pss", "worst@t3"].name == "t3" and group.level_name("max") == "largest"
    assert group.kind == "Adaptive inference" and not group.quantized
    assert not group.is_reference("uniform") and group.is_reference("dense")
    assert group.rows_expected == len(adaptive.results.runs)


def test_points_are_ordered_by_their_arithmetic_and_summarised_by_seed(adaptive: SimpleNamespace) -> None:
    summary = summarize(adaptive.results, adaptive.group, pd.DataFrame(columns=["method", "metric", "setting"]))
    assert level_order(summary) == list(reversed(POINTS))
    row = summary[(summary.method == "pss") & (summary.setting == "best@max")].iloc[0]
    assert row.n == 2 and row.quality == pytest.approx(86 + 0.8 + 3 + 0.05)
    smallest = summary[(summary.method == "pss") & (summary.setting == "best@min")].iloc[0]
    assert smallest.best_speedup == pytest.approx(6 * row.best_speedup)


def test_what_all_points_share_is_recorded_once_per_run(adaptive: SimpleNamespace) -> None:
    records = adaptive.results.records
    own = records[(records.method == "pss") & (records.setting == "best") & (records.seed == 0)]
    assert dict(zip(own.name, own.value, strict=True)) == {
        "stored_bytes_of_all_points": 60_000, "switch_ms": 0.7, "reload_ms": 9.0
    }  # fmt: skip


def test_the_report_has_the_files_that_the_plan_names(adaptive: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "reports"
    written = write(adaptive.root / "results", "desk", adaptive.runs, adaptive.declarations, tmp_path / "methods", out)
    assert {str(p.relative_to(out)) for p in written} == set(outputs(adaptive.runs, adaptive.declarations))
    table = (out / "tables/comparison_fashion_mnist_resnet_mini.md").read_text(encoding="utf-8")
    assert "| **PSS-Net** | best, 0.3 MMACs |" in table and "68 of 68 expected runs" in table
    assert "0.7" in (out / "tables/records.md").read_text(encoding="utf-8")


def test_models_without_points_are_reported_as_before(report: SimpleNamespace) -> None:
    results = collect(report.results, "desk", report.runs)
    assert results.points == {} and not results.runs.setting.str.contains("@").any()
    for group in group_runs(report.runs, report.declarations, results.points):
        assert group.settings == group.declared and group.rows_expected == len(group.runs)
    path = report.results / report.runs[0].folder("evaluate").relative_to("results") / "metrics.json"
    assert "points" not in json.loads(path.read_text(encoding="utf-8"))


def test_a_random_share_of_the_images_lies_on_the_line_between_the_ends() -> None:
    part = pd.DataFrame({"macs": [2.0, 4.0, 10.0], "quality": [80.0, 83.0, 84.0]})
    assert list(random_share(part)) == [80.0, 81.0, 84.0]
    assert list(random_share(part.assign(macs=2.0))) == [80.0] * 3


def test_measured_throughput_is_drawn_over_the_points(adaptive: SimpleNamespace) -> None:
    """Images per second of the largest batch; networks without points are lines."""
    results, group = adaptive.results, adaptive.group
    keys = results.latency[["dataset", "model", "method", "setting", "seed"]]
    timed = pd.concat([keys.assign(batch=batch, latency_ms=ms) for batch, ms in ((10, 9.0), (100, 0.5))])
    summary = summarize(results, group, pd.DataFrame(columns=["method", "metric", "setting"]))
    figure = operating_points(group, summary, replace(results, throughput=timed))
    quality, speed, macs = figure.axes
    labels = [text.get_text() for text in macs.get_xticklabels()]
    assert labels == [group.level_name(point) for point in POINTS]
    curve = speed.get_lines()[0]
    assert list(curve.get_xdata()) == list(range(len(POINTS))) and set(curve.get_ydata()) == {2000.0}
    assert macs.get_lines()[0].get_ydata()[0] == pytest.approx(0.1)
    assert [text.get_text() for text in quality.texts] == ["Dense"]
    assert "not measured yet" in [t.get_text() for t in operating_points(group, summary, results).axes[1].texts]


def test_without_points_the_figure_says_so(report: SimpleNamespace) -> None:
    results = collect(report.results, "desk", report.runs)
    group = group_runs(report.runs, report.declarations)[0]
    summary = summarize(results, group, pd.DataFrame(columns=["method", "metric", "setting"]))
    assert any("No picture yet" in text.get_text() for text in operating_points(group, summary, results).texts)
