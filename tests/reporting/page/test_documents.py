"""What the page says about a method."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from compressbench.reporting.page.documents import document, method_pages
from compressbench.reporting.page.rows import read_results, read_table


def test_headings_go_below_those_of_the_page_and_html_is_shown() -> None:
    assert document("# A\n\n##### B", below=2) == "<h3>A</h3>\n<h6>B</h6>\n"
    assert document("<script>x</script>").startswith("<p>&lt;script&gt;") or "&lt;script&gt;" in document("<script>x")
    assert document("**a** `b`", inline=True) == "<strong>a</strong> <code>b</code>"


def test_a_page_has_readme_findings_and_published_numbers(report: SimpleNamespace) -> None:
    results = read_results(report.out / "tables", report.declarations)
    counts = read_table(report.out / "tables/published_counts.csv")
    pages = method_pages(report.root / "methods", report.declarations, results, counts)
    assert [p.baseline for p in pages] == sorted(p.baseline for p in pages)
    optg = next(p for p in pages if p.name == "optg")
    assert (
        "<h4>What reproducing it taught us</h4>" in optg.body
        and "<h1" not in optg.body
        and "What it does." in optg.body
    )
    assert optg.results == 2
    by_key = {(r["setting"], r["metric"]): r for r in optg.published}
    assert by_key["dense", "macs"]["recomputed"] == "4,089,184,256" and by_key["dense", "macs"]["verdict"] == "ok"
    assert by_key["p95", "top1"]["recomputed"] == "–"


def test_findings_lead_with_what_their_author_made_bold(report: SimpleNamespace, tmp_path: Path) -> None:
    text = "# OptG\n\n## What reproducing it taught us\n- **It `holds`.** More<!--by hand-->.\n- plain\n"
    (tmp_path / "optg").mkdir()
    (tmp_path / "optg/README.md").write_text(text, encoding="utf-8")
    page = method_pages(tmp_path, {"optg": report.declarations["optg"]}, pd.DataFrame({"method": []}), pd.DataFrame())[
        0
    ]
    assert page.leads == ["It <code>holds</code>."] and "by hand" not in page.body
