"""Tests of the Pareto front over all families, its table and its figure."""

from types import SimpleNamespace

import pandas as pd

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting import families
from compressbench.reporting.figures import BIT_OPERATIONS, BYTES, SPEEDUP
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.outputs import figures_of, tables_of

RESULTS = SimpleNamespace()
# method: (family, baseline, level, quality, bytes, bit-operations)
NETWORKS = {
    "sparse": ("unstructured", False, {"sparsity": 0.9}, 88.0, 60e3, 5e8),
    "blocks": ("block", False, {"sparsity": 0.75}, 87.0, 80e3, 4e8),
    "narrow": ("filter", False, {"macs_reduction": 0.5}, 89.0, 140e3, 9e8),
    "rounded": ("quantization", True, {"bits": [4, 4]}, 86.0, 40e3, 2e8),
    "one_bit": ("binary", False, {"bits": [1, 1]}, 84.0, 16e3, 1e8),
    "dense": ("dense", True, None, 90.0, 300e3, 3e9),
}


def mixed() -> tuple[Group, pd.DataFrame]:
    """A group of five families, and what `summarize` says of it."""
    declarations, rows = {}, []
    for method, (family, baseline, level, quality, size, operations) in NETWORKS.items():
        found = Declaration.model_validate(
            {
                "title": method, "paper": "a paper", "family": family, "task": ["classification"], "stages": ["compress"],
                "starts_from": "dense", "settings": {"only": {"level": level} if level else {}},
                "package": f"methods.{'baselines.' if baseline else ''}{method}",
            }
        )  # fmt: skip
        declarations[method] = found
        rows.append(
            {"method": method, "setting": "only", "title": method, "label": found.label_of("only"), "series": method,
             "baseline": baseline, "reference": family == "dense", "quality": quality, "quality_low": quality - 1,
             "quality_high": quality + 1, "n": 3, "stored_bytes": size, "bit_operations": operations,
             "best_speedup": 3e9 / operations}
        )  # fmt: skip
    runs = [Run("desk", "digits", "small", method, "only", 0) for method in NETWORKS]
    (group,) = group_runs(runs, declarations)
    return group, pd.DataFrame(rows)


def test_a_network_is_on_the_front_unless_another_is_as_good_and_as_cheap() -> None:
    cost = pd.Series([1.0, 2.0, 2.0, 3.0, 3.0, float("nan")])
    quality = pd.Series([5.0, 6.0, 5.5, 6.0, 7.0, 9.0])
    assert families.on_front(cost, quality).tolist() == [True, True, False, False, True, False]
    assert families.on_front(pd.Series([1.0, 1.0]), pd.Series([2.0, 2.0])).all()  # neither is better


def test_a_group_of_many_families_is_told_from_one_of_few() -> None:
    group, _ = mixed()
    assert group.mixed and group.title == "All families: small on digits"
    assert "pareto" in tables_of(group) and "quality_vs_bytes" in figures_of(group)
    two, _ = mixed()
    few = Group(two.dataset, two.model, two.runs[:2], two.declarations)
    assert not few.mixed and "pareto" not in tables_of(few)


def test_the_table_names_the_fronts_of_every_network() -> None:
    group, summary = mixed()
    table, text = families.pareto_table(group, summary)
    assert table.method.tolist() == ["one_bit", "rounded", "sparse", "blocks", "narrow", "dense"]
    fronts = dict(zip(table.method, table.front, strict=True))
    assert fronts["blocks"] == "bit-operations"  # the sparse one is smaller and better
    assert all(fronts[m] == "bytes, bit-operations" for m in ("one_bit", "rounded", "sparse", "narrow", "dense"))
    assert "| Binary networks | **one_bit** |" in text and "| Quantization | rounded |" in text


def test_the_figure_has_a_point_per_network_and_a_name_per_network_of_the_front() -> None:
    group, summary = mixed()
    for cost in (BYTES, BIT_OPERATIONS, SPEEDUP):
        (axes,) = families.quality_by_family(group, summary, RESULTS, cost).axes
        points = [line for line in axes.lines if line.get_marker() in ("o", "*") and len(line.get_xdata()) == 1]
        assert len(points) == len(summary)
        hollow = [line.get_ydata()[0] for line in points if line.get_markerfacecolor() == "none"]
        assert hollow == [NETWORKS["rounded"][3]]
        front = families.on_front(-summary[cost.column] if cost is SPEEDUP else summary[cost.column], summary.quality)
        assert len(axes.texts) == front.sum()


def test_without_results_the_figure_says_what_is_missing() -> None:
    group, summary = mixed()
    assert not families.quality_by_family(group, summary[:0], RESULTS, BYTES).axes
    assert "No results yet." in families.pareto_table(group, summary[:0])[1]
