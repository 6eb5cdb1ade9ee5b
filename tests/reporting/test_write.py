"""The report as a whole: names, determinism, partial results, no model code."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from PIL import Image

from compressbench.reporting import describe, outputs, write

ROOT = Path(__file__).parents[2]


def test_writes_exactly_the_files_that_are_known_in_advance(report: SimpleNamespace) -> None:
    written = {str(p.relative_to(report.out)) for p in report.written}
    assert written == set(outputs(report.runs, report.declarations))
    assert all(p.stat().st_size > 0 for p in report.written)


def test_every_output_has_a_caption_file_and_a_category(report: SimpleNamespace) -> None:
    for output in outputs(report.runs, report.declarations):
        description = describe(output)
        assert (ROOT / "workflow" / "report" / description.caption).read_text(encoding="utf-8").strip()
        assert description.category and all(description.labels.values())
    assert describe("figures/quality_vs_macs_fashion_mnist_resnet8.svg").labels["subject"] == "fashion mnist resnet8"


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


def test_nothing_missing_is_said(report: SimpleNamespace) -> None:
    assert "Nothing is missing." in (report.out / "tables/missing.md").read_text(encoding="utf-8")
    assert pd.read_csv(report.out / "tables/missing.csv").empty


def test_latency_is_expected_only_of_the_seeds_that_measure_it(report: SimpleNamespace, tmp_path: Path) -> None:
    chosen = [r for r in report.runs if r.method == "optg"]
    timed = {run: run for run in chosen if run.seed == 0}
    write(tmp_path, "desk", chosen, report.declarations, tmp_path, tmp_path / "out", timed=timed)
    missing = pd.read_csv(tmp_path / "out/tables/missing.csv")
    assert set(missing[missing.result == "latency.json"].seed) == {0}


def test_imports_neither_torch_nor_methods() -> None:
    heavy = ("torch", "methods", "mlflow")
    code = f"import sys, compressbench.reporting.writer; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True, encoding="utf-8")
    assert done.stdout.strip() == "[]"
