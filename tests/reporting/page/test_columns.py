"""What the page's table says."""

from types import SimpleNamespace

from compressbench.reporting.page.columns import AXES, COLUMNS
from compressbench.reporting.page.rows import read_results

TEXTS = {column.key: column.text for column in COLUMNS}
NOTHING = float("nan")


def test_an_interval_is_shown_where_there_is_one() -> None:
    row = SimpleNamespace(quality=90.1, quality_low=89.6, quality_high=90.6, measure="%")
    assert TEXTS["quality"](row) == "90.10 ± 0.50 %"
    row.quality_low = row.quality_high = NOTHING
    assert TEXTS["quality"](row) == "90.10 %"


def test_what_was_not_measured_is_a_dash() -> None:
    missing = SimpleNamespace(best_speedup=NOTHING, paper_ms=NOTHING, fastest_ms=NOTHING, macs=NOTHING, seconds=NOTHING)
    assert [TEXTS[key](missing) for key in ("best_speedup", "paper_ms", "fastest_ms", "macs", "seconds")] == ["–"] * 5


def test_every_column_and_axis_is_one_of_the_results(report: SimpleNamespace) -> None:
    results = read_results(report.out / "tables", report.declarations)
    named = {column.key for column in COLUMNS} | {end for a in AXES for end in (a.key, a.low, a.high) if end}
    assert named <= set(results.columns)
    assert {axis.better for axis in AXES} == {"low", "high"}
