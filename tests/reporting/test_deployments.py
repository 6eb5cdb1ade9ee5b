"""The table of what methods deploy: ratios within a process, medians and ranges over processes."""

import json
from pathlib import Path
from typing import Any

import pytest

from compressbench.reporting.deployments import read, summarize, write_deployments


def form(methods: list[str], runtime: str, arithmetic: str, ms: float, **more: Any) -> dict[str, Any]:
    costs = {"params": 10, "macs": 100, "stored_bytes": 4000}
    return {"methods": methods, "setting": "", "runtime": runtime, "arithmetic": arithmetic, "ms": ms} | costs | more


def files(folder: Path) -> list[Path]:
    """Two processes; a dense network on three runtimes, its 8-bit form, and a sparse network of two methods."""
    found = []
    for process, slower in enumerate((1.0, 2.0)):
        sparse = {"setting": "75 %", "macs": 25, "stored_bytes": 1000}
        forms = [
            form([], "eager", "fp32", 10 * slower),
            form([], "packed", "fp32", 8 * slower),
            form([], "packed_bf16", "bf16", 4 * slower),
            form(["minmax"], "packed_int8", "int8", 3 * slower, setting="8 bits", reference=True),
            form(["optg", "rigl"], "own", "fp32", 4.0, **sparse),
        ]
        content = {"network": "Small", "threads": 1, "machine": {"cpu": "a processor"}, "forms": forms}
        found.append(folder / f"process{process}.json")
        found[-1].write_text(json.dumps(content), encoding="utf-8")
    return found


def test_speedups_are_ratios_within_a_process(tmp_path: Path) -> None:
    table = summarize(read(files(tmp_path))).set_index("methods")
    sparse = table.loc["optg+rigl"]
    assert (sparse.speedup, sparse.speedup_low, sparse.speedup_high) == (3.0, 2.0, 4.0)  # 8 / 4 and 16 / 4
    assert (sparse.speedup_any_low, sparse.speedup_any_high) == (0.75, 1.5)  # over 8 bits: 3 / 4 and 6 / 4
    assert (sparse.dense_runtime, sparse.dense_ms, sparse.ms) == ("packed", 12.0, 4.0)
    assert sparse.promised == 4.0
    assert sparse.of_macs == pytest.approx(0.75)


def test_the_page_names_all_methods_that_deploy_the_same_and_leaves_references_out(tmp_path: Path) -> None:
    written = write_deployments(files(tmp_path), {"optg": "OptG", "rigl": "RigL"}, "deployments", tmp_path)
    page = (tmp_path / "tables/deployments.md").read_text(encoding="utf-8")
    assert "| Small | OptG, RigL | 75 % | 1.00 kB | 25 | 12.00 (packed) | 4.00 (own) | 3.00 [2.00, 4.00] |" in page
    assert "minmax" not in page
    assert "a processor" in page
    assert all(path.stat().st_size > 0 for path in written)
    assert {path.suffix for path in written} == {".csv", ".md", ".png", ".svg"}
