"""Numbers that prose quotes: those of the READMEs against the committed tables, and the mechanism on a small table."""

from pathlib import Path

import pandas as pd
import pytest

from compressbench.config.discovery import discover
from compressbench.config.levels import KINDS
from compressbench.errors import UserError
from compressbench.plan import Plan
from compressbench.reporting.findings import findings, write_findings
from compressbench.reporting.quotes import (
    COMMENT,
    MARKS,
    Cells,
    Unknown,
    claims,
    documents,
    evaluate,
    holds,
    quotes,
    requote,
    strip,
    unreferenced,
    write_like,
)  # fmt: skip
from tests.conftest import ROOT

README = {str(path.relative_to(ROOT)): (path, own) for path, own in documents(ROOT).items()}


@pytest.fixture(scope="module")
def committed() -> Cells:
    return Cells(ROOT / "reports/tables")


@pytest.fixture(scope="module")
def percentages() -> set[str]:
    """The levels of the desk scale that are given in per cent."""
    plan = Plan(ROOT, "desk", seeds=[0])
    levels = {plan.declarations[run.method].level_of(run.setting) for run in plan.runs}
    return {f"{100 * v:g}" for level in levels if level.kind in KINDS and KINDS[level.kind].share for v in level.values}


@pytest.mark.parametrize("name", README)
def test_every_quoted_number_is_the_one_in_its_table(committed: Cells, name: str) -> None:
    path, own = README[name]
    differing = [q for q in quotes(path.read_text(encoding="utf-8"), committed, own) if q.written != q.right]
    assert not differing, "run `compressbench quotes`, then read the sentences around them"


@pytest.mark.parametrize("name", README)
def test_every_claim_holds_in_the_tables(committed: Cells, name: str) -> None:
    path, own = README[name]
    failing = [c for _, c in claims(path.read_text(encoding="utf-8")) if not holds(c, committed, own)]
    assert not failing


@pytest.mark.parametrize("name", README)
def test_no_number_that_looks_measured_is_without_a_reference_or_a_mark(percentages: set[str], name: str) -> None:
    text = README[name][0].read_text(encoding="utf-8")
    assert unreferenced(text, percentages) == []


def test_the_readmes_quote_hundreds_of_numbers(committed: Cells) -> None:
    """So that the three tests above do not pass because nothing is found."""
    found = [q for path, own in README.values() for q in quotes(path.read_text(encoding="utf-8"), committed, own)]
    assert len(found) > 400
    assert sum(len(list(claims(path.read_text(encoding="utf-8")))) for path, _ in README.values()) > 40


@pytest.mark.parametrize("name", README)
def test_comments_do_not_break_paragraphs(name: str) -> None:
    """In Markdown a line that begins with a comment ends the paragraph before it."""
    text = README[name][0].read_text(encoding="utf-8")
    starts = [line for line in text.splitlines() if line.lstrip().startswith("<!--")]
    assert all(line.startswith("<!--table ") for line in starts)


def test_the_committed_findings_are_those_of_the_readmes(tmp_path: Path) -> None:
    text = findings(ROOT / "methods", discover(ROOT))
    assert "<!--" not in text
    for page in write_findings(text, tmp_path):
        assert page.read_text(encoding="utf-8") == (ROOT / "reports" / page.name).read_text(encoding="utf-8"), page.name


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two networks, the method `ours` at two settings, a baseline at one of them, and records."""
    tables, folder = tmp_path / "tables", tmp_path / "methods/ours"
    tables.mkdir()
    folder.mkdir(parents=True)
    (tmp_path / "README.md").write_text("# compressbench\n", encoding="utf-8")
    quality = "method,setting,quality,quality_low,quality_high,change\n"
    pd.DataFrame({"dataset": ["mnist", "mnist"], "model": ["net", "other_net"]}).to_csv(tables / "overview.csv")
    rows = "ours,p50,90,89,91,-1.5\nours,p90,81.26,80,82.52,-10\ntheirs,p90,83,82,84,-8\n"
    (tables / "comparison_mnist_net.csv").write_text(quality + rows, encoding="utf-8")
    (tables / "comparison_mnist_other_net.csv").write_text(quality + "theirs,p90,70,69,71,0\n", encoding="utf-8")
    records = "dataset,model,method,setting,name,mean,low,high,n\nmnist,net,ours,p50,kept,12345.6,12345,12346,3\n"
    (tables / "records.csv").write_text(records, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("p50", 90), ("ours/p90", 81.26), ("net/theirs/p90", 83), ("p50:change", -1.5), ("-p50:change", 1.5),
        ("p50:kept", 12345.6), ("p50 - p90", 8.74), ("100 * p50 / net/theirs/p90", 9000 / 83),
        ("min(net/ours/*)", 81.26), ("mean(net/ours/*)", 85.63), ("max(net/*/p90 - other_net/*/p90)", 13),
        ("p90 < net/theirs/p90", 1), ("p50 < p90", 0), ("p90 < net/theirs/p90 < p50", 1),
    ],
)  # fmt: skip
def test_a_reference_is_arithmetic_on_cells(project: Path, expression: str, value: float) -> None:
    assert evaluate(expression, Cells(project / "tables"), "ours")[0] == pytest.approx(value)


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("p10", "no table has p10"),
        ("theirs/p90", "several models"),
        ("net/ours/*", "several numbers"),
        ("p50 +", "is no reference"),
        ("( p50 , 1 )", "no table has ,"),
    ],
)
def test_a_wrong_reference_is_named(project: Path, expression: str, sentence: str) -> None:
    with pytest.raises(Unknown, match=sentence):
        evaluate(expression, Cells(project / "tables"), "ours")


def test_numbers_are_written_at_the_precision_that_they_had(project: Path) -> None:
    readme = project / "methods/ours/README.md"
    text = (
        "It has 7.00 ± 9.9<!--p90--> %, 11,111<!--p50:kept--> and 1<!--p50:kept / 10000-->, −0.1<!--p50:change--> and "
        "+3<!--p50 - p90--> points; 0<!--p50:change * 0.0001-->, and 5.5<!--by hand-->.\n"
    )
    readme.write_text(text, encoding="utf-8")
    changed, failing = requote(project, project / "tables")
    assert readme.read_text(encoding="utf-8") == (
        "It has 81.26 ± 1.3<!--p90--> %, 12,346<!--p50:kept--> and 1<!--p50:kept / 10000-->, −1.5<!--p50:change--> and "
        "+9<!--p50 - p90--> points; 0<!--p50:change * 0.0001-->, and 5.5<!--by hand-->.\n"
    )
    assert changed[0] == "methods/ours/README.md:1: 7.00 ± 9.9 → 81.26 ± 1.3" and len(changed) == 4 and not failing


def test_a_claim_that_does_not_hold_is_named(project: Path) -> None:
    claim = "Below theirs<!--assert p90 < net/theirs/p90-->, and above itself\nat half<!--assert p90 > p50-->.\n"
    (project / "methods/ours/README.md").write_text(claim, encoding="utf-8")
    assert requote(project, project / "tables") == ([], ["methods/ours/README.md:2: p90 > p50"])


def test_a_wrong_reference_changes_no_readme(project: Path) -> None:
    (project / "README.md").write_text("# compressbench\n\n1.00<!--net/ours/p50-->\n", encoding="utf-8")
    (project / "methods/ours/README.md").write_text("1.00<!--p10-->\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"methods/ours/README\.md: no table has p10; correct"):
        requote(project, project / "tables")
    assert "1.00<!--net" in (project / "README.md").read_text(encoding="utf-8")


def test_single_seeds_are_quoted_where_they_are_committed(project: Path) -> None:
    text = "Seeds: 1.0<!--p50#0--> and 1.0<!--p50#1:kept-->, never below 80<!--assert min(net/ours/p50#*) > 80-->.\n"
    assert quotes(text, Cells(project / "tables"), "ours") == []
    rows = [
        ("mnist", "net", "ours", "p50", "", 0, "quality.top1", 89.5),
        ("mnist", "net", "ours", "p50", "", 1, "quality.top1", 79.5),
        ("mnist", "net", "ours", "p50", "", 1, "compress.kept", 3),
    ]
    columns = ["dataset", "model", "method", "setting", "point", "seed", "name", "value"]
    pd.DataFrame(rows, columns=columns).to_csv(project / "tables/seeds.csv", index=False)
    cells = Cells(project / "tables")
    assert [q.right for q in quotes(text, cells, "ours")] == ["89.5", "3.0"]
    assert not holds("min(net/ours/p50#*) > 80", cells, "ours")


def test_a_marked_table_is_written_from_the_report(project: Path) -> None:
    (project / "tables/overview.md").write_text("## Title\n\n| a |\n|---|\n| 1 |\n\n- note\n", encoding="utf-8")
    text = "# compressbench\n\n<!--table overview-->\n| a |\n|---|\n| 0 |\n| 0 |\n\nAfter.\n"
    (project / "README.md").write_text(text, encoding="utf-8")
    requote(project, project / "tables")
    right = "# compressbench\n\n<!--table overview-->\n| a |\n|---|\n| 1 |\n\nAfter.\n"
    assert (project / "README.md").read_text(encoding="utf-8") == right


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("It has 84.1 % there.", ["84.1"]),
        ("It has 84.1<!--p90--> % there.", []),
        ("It has 84.1 % there<!--by hand-->.", []),
        ("It has 84.1 %. The other has 85<!--by hand--> %.", ["84.1"]),
        ("It has 84.1 ± 0.3 and 85.2<!--p90--> %.", ["84.1 ± 0.3"]),
        ("From 12 to 20 times as fast, over 64 filters.", ["12", "20"]),
        ("At 90 % and 95 % of 3 seeds, arXiv 2201.12826, `0.5 %`.", []),
        ("It keeps 90 kB.", ["90"]),
    ],
)
def test_forgotten_references_are_found(sentence: str, found: list[str]) -> None:
    text = f"# Ours\n\n## What reproducing it taught us\n- {sentence}\n"
    assert [number for _, number in unreferenced(text, {"90", "95"})] == found


def test_outside_the_findings_only_numbers_with_a_unit_count() -> None:
    text = "# Ours\n\n## Deviations\n- A rate of 0.05 ends 2.5 points lower.\n"
    assert unreferenced(text, set()) == [(4, "2.5")]


def test_readers_see_no_comment() -> None:
    text = "<!--table a-->\n| 1 |\n\nIt has 84.1<!--p90--> %<!--assert p90 < p50-->.\n"
    assert strip(text) == "| 1 |\n\nIt has 84.1 %.\n"
    assert not COMMENT.search(strip(text))


def test_a_number_keeps_its_form() -> None:
    assert write_like("1,234", 1234567.2) == "1,234,567"
    assert write_like("0.5", -0.04) == "0.0"
    assert write_like("+0.50", 0.25) == "+0.25" and write_like("+0.50", -0.25) == "−0.25"


def test_marks_say_where_a_number_comes_from() -> None:
    used = {m["content"] for path, _ in README.values() for m in COMMENT.finditer(path.read_text(encoding="utf-8"))}
    assert set(MARKS) <= used
