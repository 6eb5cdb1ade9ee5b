"""Tests of ranks at several budgets."""

from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting import budgets
from compressbench.reporting.groups import Group, group_runs

MULTIPLES = {"digits/short": 1.0, "digits/long": 4.0}
METHODS = ("a", "b", "c", "dense")


def study(long: dict[str, float]) -> tuple[list[Group], SimpleNamespace]:
    """Three methods that rank a < b < c with the small budget, and as `long` says with the large one; two seeds."""
    declarations = {
        m: Declaration.model_validate(
            {
                "title": m, "paper": "a paper", "family": "dense" if m == "dense" else "unstructured", "stages": ["compress"],
                "task": ["classification"], "starts_from": "scratch", "settings": {"p90": {"level": {"sparsity": 0.9}}},
            }
        )
        for m in METHODS
    }  # fmt: skip
    qualities = {"short": {"a": 80.0, "b": 81.0, "c": 82.0, "dense": 90.0}, "long": long | {"dense": 91.0}}
    runs = [Run("study", "digits", model, m, "p90", seed) for model in qualities for m in METHODS for seed in (0, 1)]
    rows = [
        {"dataset": "digits", "model": r.model, "method": r.method, "setting": r.setting, "seed": r.seed,
         "quality": qualities[r.model][r.method] + 0.1 * r.seed}
        for r in runs
    ]  # fmt: skip
    return group_runs(runs, declarations), SimpleNamespace(runs=pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("long", "spearman", "kendall"),
    [
        ({"a": 83.0, "b": 84.0, "c": 85.0}, 1, 1),
        ({"a": 85.0, "b": 84.0, "c": 83.0}, -1, -1),
        ({"a": 84.0, "b": 83.0, "c": 85.0}, 0.5, 1 / 3),
    ],
)
def test_ranks_are_compared_within_a_seed(long: dict[str, float], spearman: float, kendall: float) -> None:
    table = budgets.correlations(budgets.qualities(*study(long), MULTIPLES))
    assert table.level.tolist() == ["all levels", "90 % sparsity"]
    for row in table.itertuples():
        assert (row.less, row.more, row.networks, row.n) == (1, 4, 3, 2)
        assert row.spearman == pytest.approx(spearman) and row.kendall == pytest.approx(kendall)
        assert row.spearman_low == pytest.approx(row.spearman_high)  # both seeds rank alike


def test_the_dense_network_and_other_pairs_have_no_rank() -> None:
    groups, results = study({"a": 83.0, "b": 84.0, "c": 85.0})
    assert set(budgets.qualities(groups, results, MULTIPLES).method) == {"a", "b", "c"}
    assert budgets.correlations(budgets.qualities(groups, results, {"digits/short": 1.0})).empty


def test_the_table_has_the_correlations_with_their_intervals() -> None:
    _, text = budgets.budgets_table(*study({"a": 84.0, "b": 83.0, "c": 85.0}), MULTIPLES)
    assert "| 90 % sparsity | 1× and 4× | 3 | 0.50 ± 0.00 | 0.33 ± 0.00 |" in text


def test_the_figure_has_a_panel_per_level_and_a_name_per_network() -> None:
    groups, results = study({"a": 83.0, "b": 84.0, "c": 85.0})
    (axes,) = budgets.budgets_figure(groups, results, MULTIPLES).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1×", "4×"]
    assert {t.get_text() for t in axes.texts} == {"a", "b", "c"}
    assert not budgets.budgets_figure(groups, results, {"digits/short": 1.0}).axes
