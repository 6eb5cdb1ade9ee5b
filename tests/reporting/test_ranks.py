"""Ranks of small tables whose ranks are worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from compressbench.reporting.ranks import Meeting, ranks, ranks_figure, ranks_table

NAN = float("nan")


def meeting(names: str, *cells: list[list[float]]) -> Meeting:
    """cells: per level, per method, the qualities of the seeds."""
    return Meeting(list(names), np.array(cells, dtype=float))


def test_a_rank_is_the_mean_over_levels_and_pairs_and_ties_share_it() -> None:
    first = meeting("abc", [[3.0], [2.0], [1.0]], [[1.0], [1.0], [NAN]])
    table = ranks([first, meeting("ad", [[1.0], [2.0]])]).set_index("method")
    assert dict(table["rank"]) == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": (2 + 1.5) / 2, "c": 3, "d": 1})
    assert dict(table.beaten) == pytest.approx({"a": (1 + 0.5 + 0) / 3, "b": (0.5 + 0.5) / 2, "c": 0, "d": 1})
    assert dict(table.rivals) == pytest.approx({"a": 4 / 3, "b": 1.5, "c": 2, "d": 1})
    assert dict(table.cells) == {"a": 3, "b": 2, "c": 1, "d": 1} and table.pairs["a"] == 2


def test_the_mean_over_seeds_decides_and_the_interval_is_as_wide_as_seeds_disagree() -> None:
    table = ranks([meeting("ab", [[10.0, 1.0], [5.0, 5.0]])]).set_index("method")
    assert table.beaten["a"] == 1
    # the two seeds are drawn as (0, 0), (0, 1), (1, 0) or (1, 1): in a quarter of the replicates only the second one counts
    assert (table.beaten_low["a"], table.beaten_high["a"]) == (0, 1)
    sure = ranks([meeting("ab", [[10.0, 9.0], [5.0, 5.0]])]).set_index("method")
    assert (sure.rank_low["a"], sure.rank_high["a"]) == (1, 1)


def test_seeds_are_drawn_for_all_methods_alike() -> None:
    """A method that is always a little better wins, however much seeds differ from each other."""
    table = ranks([meeting("ab", [[10.1, 1.1, 5.1], [10.0, 1.0, 5.0]])]).set_index("method")
    assert (table.beaten_low["a"], table.beaten_high["a"]) == (1, 1)


def test_pairs_that_disagree_leave_the_order_open() -> None:
    won, lost = meeting("ab", [[2.0], [1.0]]), meeting("ab", [[1.0], [2.0]])
    table = ranks([won, lost]).set_index("method")
    assert (table.beaten["a"], table.beaten_low["a"], table.beaten_high["a"]) == (0.5, 0, 1)


def test_one_pair_with_one_seed_has_no_interval() -> None:
    table = ranks([meeting("ab", [[2.0], [1.0]])])
    assert table[["rank_low", "rank_high", "beaten_low", "beaten_high"]].isna().all().all()


def test_the_bootstrap_is_the_same_every_time() -> None:
    rng = np.random.default_rng(1)
    found = [meeting("abc", *rng.normal(size=(2, 3, 3)).tolist()) for _ in range(3)]
    pd.testing.assert_frame_equal(ranks(found), ranks(found))


def test_without_a_meeting_there_are_no_ranks() -> None:
    empty = ranks([])
    assert empty.empty and "No results yet." in ranks_table(empty)
    assert ranks_figure(empty).axes == []


def test_the_page_gives_rank_rivals_and_interval() -> None:
    table = ranks([meeting("ab", [[10.0, 1.0], [5.0, 5.0]])]).assign(
        title=["Ours", "Old"], family="block", baseline=[False, True]
    )
    text = ranks_table(table)
    assert "| Block pruning | **Ours** | 1.0 [1.0, 2.0] of 2.0 | 100 [0, 100] % | 1 | 1 |" in text
    assert [t.get_text() for t in ranks_figure(table).axes[0].get_yticklabels()] == [
        "Ours (block pruning)", "Old (block pruning)",
    ]  # fmt: skip
