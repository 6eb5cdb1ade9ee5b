"""Tests of the names of the report's files."""

from types import SimpleNamespace

from compressbench.reporting import PAGE, SEEDS, describe, outputs
from tests.conftest import ROOT


def test_writes_exactly_the_files_that_are_known_in_advance(report: SimpleNamespace) -> None:
    written = {str(p.relative_to(report.out)) for p in report.written}
    assert written == set(outputs(report.runs, report.declarations))
    assert all(p.stat().st_size > 0 for p in report.written)


def test_snakemakes_report_has_every_figure_and_every_table_once(report: SimpleNamespace) -> None:
    names = [*outputs(report.runs, report.declarations), PAGE]
    shown = [name for name in names if describe(name).shown]
    assert {n.partition(".")[0] for n in names} - {n.partition(".")[0] for n in shown} == {SEEDS.partition(".")[0]}
    assert len({n.partition(".")[0] for n in shown}) == len(shown)


def test_every_output_has_a_caption_file_and_a_category(report: SimpleNamespace) -> None:
    for output in [*outputs(report.runs, report.declarations), PAGE]:
        description = describe(output)
        assert (ROOT / "workflow" / "report" / description.caption).read_text(encoding="utf-8").strip()
        assert description.category and all(description.labels.values())
    assert describe("figures/quality_vs_macs_fashion_mnist_resnet8.svg").labels["subject"] == "fashion mnist resnet8"
