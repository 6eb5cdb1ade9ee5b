"""The overview, on the drawn results of conftest and on small frames worked out by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting.groups import Group
from compressbench.reporting.headline import headline, is_main, overview, read_deployed


def declaration(family: str, package: str, settings: dict[str, Any]) -> Declaration:
    content = {
        "title": package.rpartition(".")[2].capitalize(), "paper": "", "family": family, "task": ["classification"],
        "stages": ["compress"], "starts_from": "dense", "settings": settings,
    }  # fmt: skip
    return Declaration.model_validate(content).model_copy(update={"package": package})


def at(sparsity: float, variant: str = "") -> dict[str, Any]:
    return {"level": {"sparsity": sparsity}, "variant": variant}


DECLARATIONS = {
    "ours": declaration(
        "unstructured", "methods.ours", {"p50": at(0.5), "p90": at(0.9), "p90_random": at(0.9, "random")}
    ),
    "old": declaration("unstructured", "methods.baselines.old", {"p90_real": at(0.9, "real"), "p90": at(0.9)}),
    "free": declaration("super_resolution", "methods.baselines.free", {"default": {}}),
    "dense": declaration("dense", "methods.baselines.dense", {"checkpoint": {}}),
}
RUNS = tuple(Run("desk", "set", "net", m, s, 0) for m, declared in DECLARATIONS.items() for s in declared.settings)
GROUP = Group("set", "net", RUNS, DECLARATIONS)
QUALITY = {
    ("ours", "p50"): 89.0, ("ours", "p90"): 85.0, ("ours", "p90_random"): 87.0, ("old", "p90"): 84.0,
    ("old", "p90_real"): 86.0, ("free", "default"): 60.0, ("dense", "checkpoint"): 90.0,
}  # fmt: skip
BYTES = {"p50": 60.0, "default": 0.0, "checkpoint": 100.0}


def summary(**quality: float) -> pd.DataFrame:
    rows = []
    for (method, setting), value in QUALITY.items():
        baseline, costs = GROUP.is_baseline(method), BYTES.get(setting, 20.0)
        rows.append(
            {
                "method": method, "setting": setting, "title": GROUP.short(method), "label": GROUP.label(method, setting),
                "series": GROUP.series(method, setting), "level": GROUP.levels[method, setting].name, "baseline": baseline,
                "reference": GROUP.is_reference(method), "quality": quality.get(method, value), "quality_low": float("nan"),
                "quality_high": float("nan"), "ssim": float("nan"), "n": 1, "against": "Dense", "change": value - 90,
                "change_low": float("nan"), "change_high": float("nan"), "seconds": 1.0, "params": 9.0, "weights": 9.0,
                "kept_weights": 9.0, "macs": costs, "dense_macs": 100.0, "bit_operations": costs, "stored_bytes": costs,
                "density": 1.0, "macs_reduction": 0.0, "published": "–", "speedup": 1.5,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def test_each_level_has_the_method_its_strongest_baseline_and_its_strongest_control() -> None:
    mild, strong = headline(GROUP, summary()).to_dict("records")
    assert (mild["setting"], mild["baseline_quality"], mild["control_method"]) == ("p50", 60.0, "")
    assert (strong["setting"], strong["quality"], strong["dense_quality"]) == ("p90", 85.0, 90.0)
    assert (strong["baseline_setting"], strong["baseline_quality"]) == ("p90_real", 86.0)
    assert (strong["control_setting"], strong["control_quality"]) == ("p90_random", 87.0)


def test_a_baseline_outside_all_levels_counts_where_it_costs_no_more() -> None:
    _, strong = headline(GROUP, summary(free=88.0)).to_dict("records")
    assert (strong["baseline_method"], strong["baseline_quality"]) == ("free", 88.0)
    assert not (headline(GROUP, summary(dense=99.0)).baseline_method == "dense").any()


def test_a_variant_is_a_control_and_every_level_of_the_first_series_is_the_method() -> None:
    assert [is_main(GROUP, "ours", s) for s in ("p50", "p90", "p90_random")] == [True, True, False]


DEPLOYED = {
    "methods": ["ours", "ours+other", "ours"], "represents": ["", "ours+other", "ours"], "network": ["A", "A", "B"],
    "setting": ["50 %", "90 %", "90 %"], "threads": [1, 1, 2],
    "speedup": [9.0, 2.0, 3.0], "speedup_low": [8.0, 1.9, 2.9], "speedup_high": [10.0, 2.1, 3.1], "runtime": ["x", "y", "z"],
}  # fmt: skip


@pytest.fixture
def deployed(tmp_path: Path) -> pd.DataFrame:
    pd.DataFrame(DEPLOYED).to_csv(tmp_path / "deployments.csv", index=False)
    return read_deployed([tmp_path / "missing.csv", tmp_path / "deployments.csv"])


def test_the_speed_up_is_that_of_the_deployment_that_stands_for_a_method(deployed: pd.DataFrame) -> None:
    assert list(deployed.loc["ours"]) == ["A", "90 %", 2.0, 1.9, 2.1, "y"]
    assert set(deployed.index) == {"ours", "other"}


def test_the_overview_names_network_and_setting_once_and_has_no_time_of_the_small_network(
    deployed: pd.DataFrame,
) -> None:
    table, text = overview([GROUP], [summary()], deployed)
    assert list(table.speedup.fillna(0)) == [2.0, 0.0] and "latency_ms" not in table
    assert text.count("2.00 [1.90, 2.10] (A, 90 %, y)") == 1
    assert "| 87.00 (random, 90 %) | 90.00 (Dense) |" in text
    assert overview([GROUP], [summary()])[0].speedup.isna().all()
    assert read_deployed([]).empty


def test_the_overview_has_every_group_and_own_methods_only_where_some_run(report: SimpleNamespace) -> None:
    table = pd.read_csv(report.out / "tables/overview.csv")
    assert not table.duplicated(["dataset", "model", "method", "level"]).any()
    assert set(table.model) == {r.model for r in report.runs}
    assert not table.baseline.any() and (table.change + table.dense_quality - table.quality).abs().max() < 1
