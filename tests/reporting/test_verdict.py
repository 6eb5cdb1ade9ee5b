"""What a run computed beside the committed numbers: counts, words, and the table of single seeds that both come from."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from compressbench.reporting.verdict import compare, verdict
from tests.reporting.seed_rows import OPTG, QUALITIES, rows

# mean 84.5, s = 0.4, t(0.975, 2) = 4.3027: the interval is 84.5 ± 4.3027 · 0.4 / √3 = 84.5 ± 0.9937
SOURCE, FILE = Path("reports/tables/seeds.csv"), Path("results/desk/report/verdict.csv")


@pytest.fixture
def committed() -> pd.DataFrame:
    return pd.concat([rows(seed, method) for method in ("optg", "snip") for seed in QUALITIES], ignore_index=True)


def judge(computed: pd.DataFrame, committed: pd.DataFrame | None, seeds: tuple[int, ...] = (0,)) -> SimpleNamespace:
    """The verdict on a run of both methods, and its counts."""
    table, page = verdict(computed, committed, ["optg", "snip"], seeds, "desk", SOURCE, FILE)
    assert len(page.splitlines()) <= 25 and page.isascii()  # whatever the encoding of the terminal
    return SimpleNamespace(table=table, page=page, counts=table.verdict.value_counts().to_dict())


def test_equal_tables_have_0_differences(committed: pd.DataFrame) -> None:
    found = judge(committed.sample(frac=1, random_state=0), committed, (0, 1, 2))
    assert found.table.empty
    assert (
        "All 18 committed numbers (reports/tables/seeds.csv) are equal to the last digit; 0 differences, 0 missing."
        in found.page
    )
    assert (
        "Differences, the largest first" not in found.page and "Missing" not in found.page and "New" not in found.page
    )


def test_a_number_that_is_not_a_number_again_is_equal(committed: pd.DataFrame) -> None:
    without = committed.assign(value=committed.value.where(committed.name != "compress.kept_l1"))
    assert judge(without, without, (0, 1, 2)).table.empty
    assert judge(committed, without, (0, 1, 2)).counts == {"outside": 6}


@pytest.mark.parametrize(
    ("quality", "expected", "words"),
    [
        (math.nextafter(84.1, 90), "within", "84.1 -> 84.1 (+1.42e-14, within 83.5063 to 85.4937)"),
        (85.4, "within", "84.1 -> 85.4 (+1.3, within 83.5063 to 85.4937)"),
        (85.5, "outside", "84.1 -> 85.5 (+1.4, outside 83.5063 to 85.4937)"),
        (83.5, "outside", "84.1 -> 83.5 (-0.6, outside 83.5063 to 85.4937)"),
    ],
)
def test_a_changed_number_is_counted_and_named(
    committed: pd.DataFrame, quality: float, expected: str, words: str
) -> None:
    found = judge(pd.concat([rows(0, quality=quality), rows(0, "snip")]), committed)
    assert found.counts == {expected: 1}
    assert "5 of 6 committed numbers" in found.page and "1 difference, 0 missing" in found.page
    assert f"- {OPTG}/seed0 quality.top1: {words}" in found.page
    assert found.table.difference.item() == quality - 84.1


def test_the_counts_are_given_by_kind(committed: pd.DataFrame) -> None:
    changed = pd.concat([rows(0, quality=84.2), rows(0, "snip", quality=90.0, kept=1491.0)])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in judge(changed, committed).page.splitlines()]
    table = pd.DataFrame(
        [line[1:] for line in lines[6:9]], columns=lines[4][1:], index=[line[0] for line in lines[6:9]]
    )
    assert list(table.loc["quality"]) == ["2", "0", "1", "1", "0", "0"]
    assert list(table.loc["sizes and counts"]) == ["2", "2", "0", "0", "0", "0"]
    assert list(table.loc["records of methods"]) == ["2", "1", "0", "1", "0", "0"]
    assert list(table.columns) == ["committed", "to the last digit", "within the interval", "outside", "missing", "new"]


def test_one_committed_seed_has_no_interval(committed: pd.DataFrame) -> None:
    found = judge(rows(0, quality=84.2), committed[(committed.seed == 0) & (committed.method == "optg")])
    assert found.counts == {"outside": 1}
    assert "(+0.1, outside what has no interval: one seed is committed)" in found.page


def test_a_missing_run_is_named(committed: pd.DataFrame) -> None:
    found = judge(rows(0), committed)
    assert found.counts == {"missing": 3}
    assert "3 of 6 committed numbers" in found.page and "0 differences, 3 missing" in found.page
    assert "Missing: 3 numbers of 1 run: fashion_mnist/resnet_mini/snip/p98/seed0" in found.page


def test_a_new_run_is_named_and_is_no_committed_number(committed: pd.DataFrame) -> None:
    found = judge(pd.concat([rows(0), rows(0, "snip")]), committed[committed.method == "snip"])
    assert found.counts == {"new": 3}
    assert "All 3 committed numbers" in found.page
    assert f"New, not in the committed table: 3 numbers of 1 run: {OPTG}/seed0" in found.page


def test_other_seeds_are_compared_where_they_are_committed_and_new_elsewhere(committed: pd.DataFrame) -> None:
    computed = pd.concat([rows(seed, method) for seed in (0, 7) for method in ("optg", "snip")])
    found = judge(computed, committed, (0, 7))
    assert found.counts == {"new": 6}
    assert "# Verdict: desk, seeds 0 and 7" in found.page
    assert (
        "All 6 committed numbers" in found.page and "New, not in the committed table: 6 numbers of 2 runs" in found.page
    )
    assert "Not part of this run: 12 committed numbers of seeds 1 and 2." in found.page


def test_what_the_run_leaves_out_is_not_missing(committed: pd.DataFrame) -> None:
    table, page = verdict(rows(1), committed, ["optg"], [1], "desk", SOURCE, FILE)
    assert table.empty and "All 3 committed numbers" in page
    assert "Not part of this run: 15 committed numbers of seeds 0, 1 and 2." in page
    elsewhere = rows(1).assign(model="resnet8")
    both = pd.concat([committed, elsewhere])
    table, page = verdict(elsewhere, both, ["optg"], [1], "desk", SOURCE, FILE, ["fashion_mnist/resnet8"])
    assert table.empty and "All 3 committed numbers" in page and "Not part of this run: 18 committed numbers" in page


def test_seeds_that_the_run_leaves_out_count_for_the_interval(committed: pd.DataFrame) -> None:
    asked = (committed.seed == 0) & (committed.method == "optg")
    table = compare(rows(0, quality=84.0), committed, asked).set_index("name")
    assert table.low["quality.top1"] == pytest.approx(84.5 - 4.302653 * 0.4 / 3**0.5, abs=1e-6)
    assert table.verdict["quality.top1"] == "within"


@pytest.mark.parametrize(
    ("committed", "source", "words"),
    [
        (None, None, "Nothing to compare with: no numbers of this scale are committed."),
        (None, SOURCE, "Nothing to compare with: reports/tables/seeds.csv does not exist."),
        (rows(7), SOURCE, "Nothing to compare with: reports/tables/seeds.csv has none of these runs."),
    ],
)
def test_without_committed_numbers_a_sentence_says_so(
    committed: pd.DataFrame | None, source: Path | None, words: str
) -> None:
    _, page = verdict(rows(0), committed, ["optg"], [0], "smoke", source, FILE)
    assert page.splitlines()[2] == words


def test_one_screen_has_the_largest_differences_and_says_where_the_others_are(committed: pd.DataFrame) -> None:
    many = pd.concat([committed.assign(model=f"net{i}") for i in range(20)], ignore_index=True)
    changed = many.assign(value=many.value + np.where(many.name == "macs", 1, 0) + np.where(many.model == "net3", 3, 0))
    kept = changed[~changed.model.isin([f"net{i}" for i in range(10, 15)])]
    found = judge(pd.concat([kept, *(rows(0, f"other{i}") for i in range(5))]), many, (0, 1, 2))
    listed = [line for line in found.page.splitlines() if "->" in line]
    assert len(listed) == 7 and all("/net3/" in line for line in listed)
    assert ["quality.top1" in line for line in listed] == [True] * 6 + [False]
    differ = 15 * 6 + 12  # the MACs of 15 networks, and the other numbers of net3
    assert f"- ... and {differ - 7} more: see results/desk/report/verdict.csv" in found.page
    missing, new = (next(ln for ln in found.page.splitlines() if ln.startswith(word)) for word in ("Missing", "New"))
    assert missing.startswith("Missing: 90 numbers of 30 runs: ") and missing.count("/seed") == 2
    assert missing.endswith(" ... and 28 more: see results/desk/report/verdict.csv")
    assert new.startswith("New, not in the committed table: 15 numbers of 5 runs: ")
    assert new.endswith(" ... and 3 more: see results/desk/report/verdict.csv")
    assert found.counts == {"outside": differ, "missing": 90, "new": 15}
