from collections.abc import Sequence

import pandas as pd

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting.groups import Group
from compressbench.reporting.matrix import matrix, matrix_table


def declaration(title: str, family: str, task: str, package: str) -> Declaration:
    content = {
        "title": title, "paper": "", "family": family, "task": [task], "stages": ["compress"], "starts_from": "dense",
        "settings": {"p90": {"level": {"sparsity": 0.9}}, "p50": {"level": {"sparsity": 0.5}}},
    }  # fmt: skip
    return Declaration.model_validate(content).model_copy(update={"package": package})


DECLARATIONS = {
    "old": declaration("Old", "unstructured", "classification", "methods.baselines.old"),
    "ours": declaration("Ours", "unstructured", "classification", "methods.ours"),
    "bits": declaration("Bits", "super_resolution", "super_resolution", "methods.bits"),
}


def group(model: str, methods: Sequence[str]) -> Group:
    runs = tuple(Run("desk", "set", model, m, s, 0) for m in methods for s in ("p90", "p50"))
    return Group("set", model, runs, DECLARATIONS)


GROUPS = [group("net", ["old", "ours"]), group("other", ["old"]), group("sr", ["bits"])]
ROW = {"setting": "p90", "label": "90 %", "quality": 80.0, "quality_low": 79.0, "quality_high": 81.0, "n": 3}
SUMMARIES = [
    pd.DataFrame([{"method": "old", **ROW}, {"method": "old", **ROW, "quality": 1.0}, {"method": "ours", **ROW}]),
    pd.DataFrame([{"method": "old", **ROW, "quality": 70.0, "quality_low": float("nan")}]),
    pd.DataFrame(),
]
OBSTACLES = {("ours", "set/other"): "net has no blocks; choose another pair."}


def table() -> pd.DataFrame:
    return matrix(GROUPS, SUMMARIES, DECLARATIONS, OBSTACLES)


def test_every_method_has_a_cell_on_every_network_and_a_word_where_it_is_empty() -> None:
    found = table()
    assert list(dict.fromkeys(found.method)) == ["ours", "old", "bits"]
    why = found.set_index(["method", "model"]).why
    assert len(why) == 9
    assert (why["old", "net"], why["ours", "other"], why["bits", "sr"]) == ("", "net has no blocks", "no result yet")
    assert (why["bits", "net"], why["ours", "sr"]) == ("for super-resolution", "for classifiers")


def test_a_pair_that_is_possible_says_that_it_was_not_run() -> None:
    found = matrix(GROUPS, SUMMARIES, DECLARATIONS, {})
    assert found.set_index(["method", "model"]).why["ours", "other"] == "not run"


def test_a_cell_is_the_first_setting_with_its_interval() -> None:
    text = matrix_table(table())
    assert "| **Ours** | 80.00 ± 1.00 (90 %) | not possible (1) | for classifiers |" in text
    assert "| Old | 80.00 ± 1.00 (90 %) | 70.00 (90 %) | for classifiers |" in text
    assert "- (1) net has no blocks" in text


def test_without_groups_the_page_says_so() -> None:
    assert "No results yet." in matrix_table(matrix([], [], DECLARATIONS, {}))
