"""Tests of the report as a whole: determinism, partial results, and which report it is compared with."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from compressbench.errors import UserError
from compressbench.reporting import SEEDS, outputs, write
from tests.reporting.seed_rows import OPTG


def test_a_report_is_compared_with_what_was_committed_before_it(
    report: SimpleNamespace, chosen: list, tmp_path: Path
) -> None:
    out, results = tmp_path / "reports", tmp_path / "results"
    shutil.copytree(report.results / "desk/fashion_mnist", results / "desk/fashion_mnist")

    def written() -> str:
        write(results, "desk", chosen, report.declarations, report.root / "methods", out, committed=out, complete=True)
        return (out / "verdict.md").read_text(encoding="utf-8")

    assert f"Nothing to compare with: {out / SEEDS} does not exist." in written()
    first = (out / SEEDS).read_bytes()
    assert "0 differences, 0 missing" in written() and (out / SEEDS).read_bytes() == first
    file = results / "desk" / OPTG / "seed0/evaluate/metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps(metrics | {"quality": {"top1": math.nextafter(metrics["quality"]["top1"], 0)}}), encoding="utf-8"
    )
    assert "1 difference, 0 missing" in written()
    assert f"<li>{OPTG}/seed0 quality.top1: " in (out / "verdict.html").read_text(encoding="utf-8")
    changed = pd.read_csv(out / "verdict.csv")
    assert list(zip(changed.method, changed.setting, changed.seed, changed.name, strict=True)) == [
        ("optg", "p98", 0, "quality.top1")
    ]
    assert (out / SEEDS).read_bytes() != first
    assert "0 differences" in written()


def test_a_complete_report_is_not_touched_when_a_result_is_missing(
    report: SimpleNamespace, chosen: list, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"rewritten by a complete run only; missing results: \d+, the first one"):
        write(tmp_path, "desk", chosen, report.declarations, report.root / "methods", tmp_path / "out", complete=True)
    assert not (tmp_path / "out").exists()


def test_equal_results_give_equal_files(report: SimpleNamespace, tmp_path: Path) -> None:
    chosen = [r for r in report.runs if r.model == "resnet_mini"]
    for name in ("a", "b"):
        write(report.results, "desk", chosen, report.declarations, report.root / "methods", tmp_path / name)
    files = outputs(chosen, report.declarations)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert "<dc:date>" not in (tmp_path / "a" / next(f for f in files if f.endswith(".svg"))).read_text(
        encoding="utf-8"
    )


def test_without_any_result_every_file_says_what_is_missing(report: SimpleNamespace, tmp_path: Path) -> None:
    chosen = [r for r in report.runs if r.model in ("resnet8", "edsr_mini")]
    written = write(tmp_path / "results", "desk", chosen, report.declarations, tmp_path / "methods", tmp_path / "out")
    assert {str(p.relative_to(tmp_path / "out")) for p in written} == set(outputs(chosen, report.declarations))
    assert Image.open(tmp_path / "out/figures/synthetic_fashion_mnist_resnet8.png").size[0] > 1000
    missing = pd.read_csv(tmp_path / "out/tables/missing.csv")
    assert len(missing) == 2 * len(chosen)
    assert "No results yet." in (tmp_path / "out/tables/overview.md").read_text(encoding="utf-8")


def test_a_missing_and_a_damaged_result_are_named_and_the_rest_is_reported(
    report: SimpleNamespace, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(report.results / "desk/fashion_mnist/resnet_mini", results / "desk/fashion_mnist/resnet_mini")
    folder = results / "desk/fashion_mnist/resnet_mini/optg/p98"
    shutil.rmtree(folder / "seed1" / "evaluate")
    (folder / "seed0/latency/latency.json").write_text('{"batch": 1, ', encoding="utf-8")
    chosen = [r for r in report.runs if r.model == "resnet_mini"]
    write(results, "desk", chosen, report.declarations, report.root / "methods", tmp_path / "out")
    text = (tmp_path / "out/tables/missing.md").read_text(encoding="utf-8")
    assert "`fashion_mnist/resnet_mini/optg/p98/seed1`: metrics.json (not there)" in text
    assert "`fashion_mnist/resnet_mini/optg/p98/seed0`: latency.json (damaged" in text
    table = pd.read_csv(tmp_path / "out/tables/comparison_fashion_mnist_resnet_mini.csv").set_index(
        ["method", "setting"]
    )
    assert table.n["optg", "p98"] == 1 and pd.isna(table.quality_low["optg", "p98"])
    assert "(n=1)" in (tmp_path / "out/tables/comparison_fashion_mnist_resnet_mini.md").read_text(encoding="utf-8")


def test_tables_come_alone_where_no_figures_are_wanted(report: SimpleNamespace, chosen: list, tmp_path: Path) -> None:
    written = write(report.results, "desk", chosen, report.declarations, tmp_path, tmp_path / "out", figures=False)
    names = {str(path.relative_to(tmp_path / "out")) for path in written}
    wanted = {name for name in outputs(chosen, report.declarations) if not name.startswith("figures/")}
    assert names == wanted and not (tmp_path / "out/figures").exists()


def test_nothing_missing_is_said(report: SimpleNamespace) -> None:
    assert "Nothing is missing." in (report.out / "tables/missing.md").read_text(encoding="utf-8")
    assert pd.read_csv(report.out / "tables/missing.csv").empty


def test_latency_is_expected_only_of_the_seeds_that_measure_it(report: SimpleNamespace, tmp_path: Path) -> None:
    chosen = [r for r in report.runs if r.method == "optg"]
    timed = {run: run for run in chosen if run.seed == 0}
    write(tmp_path, "desk", chosen, report.declarations, tmp_path, tmp_path / "out", timed=timed)
    missing = pd.read_csv(tmp_path / "out/tables/missing.csv")
    assert set(missing[missing.result == "latency.json"].seed) == {0}
