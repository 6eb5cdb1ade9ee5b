"""The findings page."""

from types import SimpleNamespace

from compressbench.reporting.findings import HEADING, read_section


def test_gathers_the_section_and_nothing_else(report: SimpleNamespace) -> None:
    text = (report.out / "findings.md").read_text(encoding="utf-8")
    assert "## OptG: gradient-driven sparsity" in text and "**once per epoch**" in text
    assert "Not a finding" not in text and "What it does" not in text
    assert "<td>17.1</td>" in (report.out / "findings.html").read_text(encoding="utf-8")


def test_a_readme_without_the_section_gives_nothing() -> None:
    assert read_section("# Method\n\nText.\n", HEADING) == ""
    assert read_section(f"## {HEADING}\n\nA.\n\n### More\n\nB.\n", HEADING) == "A.\n\n### More\n\nB."
