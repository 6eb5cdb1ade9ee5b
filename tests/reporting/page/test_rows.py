"""All results in one table: task, level in words, and times at the papers' own sizes."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.reporting.page.rows import read_deployments, read_results, read_table, task_of

DEPLOYED = (
    "network,threads,methods,setting,ms,dense_ms\nResNet-50,2,optg+snip,95 %,3,9\nResNet-50,1,optg+snip,95 %,5,9\n"
    "VGG-19,1,optg,95 %,2,4\nResNet-50,1,optg,99 %,1,9\n"
)


@pytest.fixture
def results(report: SimpleNamespace) -> pd.DataFrame:
    return read_results(report.out / "tables", report.declarations)


def test_every_row_knows_task_family_and_level(results: pd.DataFrame) -> None:
    keyed = results.set_index(["model", "method", "setting"])
    row = keyed.loc[("resnet_mini", "optg", "p95")]
    assert (row.task, row.kind, row.level_words, row.measure) == (
        "Classification", "Unstructured pruning", "95 % sparsity", "%"
    )  # fmt: skip
    row = keyed.loc[("edsr_mini", "ddtb", "b4")]
    assert (row.task, row.measure, row.header) == ("Super-resolution", "dB", "PSNR on Y, dB")


def test_a_unit_alone_decides_where_methods_have_several_tasks(report: SimpleNamespace) -> None:
    both = pd.Series(["lsq", "minmax"])
    assert task_of(both, "dB", report.declarations) == "super_resolution"
    assert task_of(both, "points", report.declarations) == "classification"
    assert task_of(both, "points of agreement", report.declarations) == "fidelity"


def test_times_at_the_papers_sizes_are_those_of_the_same_setting_on_one_thread(
    report: SimpleNamespace, tmp_path: Path
) -> None:
    for file in (report.out / "tables").glob("*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "deployments.csv").write_text(DEPLOYED, encoding="utf-8")
    timed = read_results(tmp_path, report.declarations).set_index(["method", "setting"])
    assert timed.loc[("optg", "p95"), ["paper_ms", "paper_network"]].tolist() == [5, "ResNet-50"]
    assert timed.paper_ms["snip", "p95"] == 5
    assert pd.isna(timed.paper_ms["optg", "p98"]) and pd.isna(timed.paper_ms["random", "p95"])


def test_times_of_all_settings_are_preferred(tmp_path: Path) -> None:
    assert read_deployments(tmp_path).empty
    (tmp_path / "deployments_representative.csv").write_text("network\nA\n", encoding="utf-8")
    assert list(read_deployments(tmp_path).network) == ["A"]
    (tmp_path / "deployments.csv").write_text("network\nB\n", encoding="utf-8")
    assert list(read_deployments(tmp_path).network) == ["B"]


def test_no_file_and_an_empty_one_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("\n", encoding="utf-8")
    assert read_table(tmp_path / "empty.csv").empty and read_table(tmp_path / "none.csv").empty
