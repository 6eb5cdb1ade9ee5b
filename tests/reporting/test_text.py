"""Tests of numbers and tables as text."""

import math

import pandas as pd

from compressbench.reporting.statistics import t_interval
from compressbench.reporting.text import aligned_table, exact, interval, listed, markdown_table, number, quantity


def test_one_seed_has_no_interval_and_says_so() -> None:
    single = t_interval([90.25])
    assert math.isnan(single.low)
    assert interval(*single) == "90.25 (n=1)"
    assert interval(*t_interval([])) == "–"


def test_quantities_keep_three_digits() -> None:
    assert [quantity(v) for v in (74_512, 40_813_184, 999_950, 512, float("nan"))] == [
        "74.5 k",
        "40.8 M",
        "1.00 M",
        "512",
        "–",
    ]


def test_numbers_have_a_true_minus_sign_and_a_dash_for_nothing() -> None:
    assert [number(-1.005), number(0.5, sign=True), number(math.nan)] == ["−1.00", "+0.50", "–"]
    assert [exact(40_813_184), exact(7.688), exact(-3), exact(math.nan)] == ["40,813,184", "7.688", "−3", "–"]


def test_a_list_of_words_reads_as_a_sentence() -> None:
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", 2, "c"])] == ["", "a", "a and b", "a, 2 and c"]


def test_markdown_cells_cannot_break_a_row() -> None:
    table = pd.DataFrame({"name": ["a|b"], "value": ["1"]})
    assert markdown_table(table, ["value"]).splitlines() == ["| name | value |", "|---|---:|", "| a\\|b | 1 |"]


def test_rows_of_an_aligned_table_are_equally_long() -> None:
    lines = aligned_table(pd.DataFrame({"name": ["one", "eleven"], "n": ["1", "11"]})).splitlines()
    assert lines == ["| name   |  n |", "| ------ | -: |", "| one    |  1 |", "| eleven | 11 |"]
