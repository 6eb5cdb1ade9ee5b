"""The page without a browser: its numbers are those of the tables, it needs nothing else, and it is the same every time."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.config.discovery import discover
from compressbench.errors import UserError
from compressbench.reporting.page import embedded, what_was_found, write_page
from compressbench.reporting.page.rows import NUMBERS
from tests.conftest import ROOT

VERDICT = re.compile(r"  <!-- verdict -->.*?<!-- /verdict -->\n", re.DOTALL)
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Elements(HTMLParser):
    """Every element with its attributes; whether each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> in line {self.getpos()[0]}")


def content(page: Path, name: str = "data") -> dict:
    """What the page has for its script."""
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert match
    return json.loads(match[1])


def test_its_numbers_are_those_of_the_tables(page: Path, report: SimpleNamespace) -> None:
    data = content(page)
    rows = [dict(zip(data["fields"], values, strict=True)) for values in data["values"]]
    keyed = {(r["dataset"], r["model"], r["method"], r["setting"]): r for r in rows}
    expected = 0
    for dataset, model in {(r["dataset"], r["model"]) for r in rows}:
        table = pd.read_csv(report.out / f"tables/comparison_{dataset}_{model}.csv", float_precision="round_trip")
        expected += len(table)
        for line in table.to_dict("records"):
            found = keyed[dataset, model, line["method"], line["setting"]]
            for name in NUMBERS:
                assert found[name] == line[name] or (found[name] is None and math.isnan(line[name]))
    assert expected == len(rows) == len(keyed) == len(data["texts"]) > 0


def test_it_is_whole_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    elements = Elements(text)
    assert (elements.wrong, elements.open) == ([], [])
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements.found:
        assert not attributes.get("src")
        if tag == "link":
            assert str(attributes["href"]).startswith("data:")
        if tag == "a" and str(attributes["href"]).startswith("#"):
            assert str(attributes["href"])[1:] in ids
        if tag in ("select", "input"):
            assert f'name="{attributes.get("name")}"' in text or attributes.get("id") == "jump"
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert not re.findall(r"@import|url\((?!data:)", styles)
    assert len(text.encode()) < 5e6


def test_equal_tables_give_equal_pages(page: Path, report: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(report.out / "tables", tmp_path / "tables")
    first = write_page(tmp_path, report.root / "methods", report.declarations).read_bytes()
    assert write_page(tmp_path, report.root / "methods", report.declarations).read_bytes() == first
    assert VERDICT.sub("", page.read_text(encoding="utf-8")) == first.decode()


def test_the_verdict_of_the_run_is_on_top(page: Path, report: SimpleNamespace) -> None:
    verdict = VERDICT.search(page.read_text(encoding="utf-8"))
    assert verdict and "Nothing to compare with: no numbers of this scale are committed." in verdict[0]


def test_what_is_missing_is_said(report: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(report.out / "tables", tmp_path / "tables")
    lost = (
        "dataset,model,method,setting,seed,result,reason\nfashion_mnist,plain_mini,snip,p95,0,metrics.json,not there\n"
    )
    (tmp_path / "tables/missing.csv").write_text(lost, encoding="utf-8")
    text = write_page(tmp_path, report.root / "methods", report.declarations).read_text(encoding="utf-8")
    assert "1 result files are missing" in text and "fashion_mnist/plain_mini</td>" in text


def test_a_report_without_any_result_has_a_page(report: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/overview.csv").write_text("group,dataset,model,method,setting\n", encoding="utf-8")
    page = write_page(tmp_path, report.root / "methods", report.declarations)
    assert content(page)["values"] == [] and "Without a result here: " in page.read_text(encoding="utf-8")


def test_a_folder_without_tables_is_refused(report: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no overview\.csv; write the report first"):
        write_page(tmp_path, report.root / "methods", report.declarations)


def test_nothing_in_the_data_ends_the_script() -> None:
    hostile = {"name": "</script><!-- <b>"}
    assert "<" not in embedded(hostile) and json.loads(embedded(hostile)) == hostile


def test_findings_of_the_readme_lead_there_from_the_page(tmp_path: Path) -> None:
    text = (
        "# Title\n\n## What was found\n\n1. A is 90.1<!--p98--> %. [More](docs/a.md), [web](https://a.b)\n\n## Other\n"
    )
    assert what_was_found(tmp_path, tmp_path / "reports") == ""
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    found = what_was_found(tmp_path, tmp_path / "reports")
    assert found == "1. A is 90.1 %. [More](../docs/a.md), [web](https://a.b)"


def test_the_committed_page_is_what_the_committed_tables_give(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "reports/tables", tmp_path / "reports/tables")
    found = what_was_found(ROOT, ROOT / "reports")
    page = write_page(tmp_path / "reports", ROOT / "methods", discover(ROOT), found)
    committed = (ROOT / "reports/index.html").read_text(encoding="utf-8")
    assert VERDICT.sub("", committed) == page.read_text(encoding="utf-8"), "run: compressbench page reports"
