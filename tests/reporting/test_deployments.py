"""The table of what methods deploy: ratios within a process, medians and ranges over processes."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compressbench.config.discovery import discover
from compressbench.reporting.deployments import read, representative, summarize, write_deployments
from compressbench.reporting.quotes import _by_keys
from tests.conftest import ROOT

DENSE = {"runtime": "packed", "arithmetic": "fp32", "batch": 1, "setting": "", "ms": 8.25}


def form(methods: list[str], runtime: str, arithmetic: str, ms: float, **more: Any) -> dict[str, Any]:
    costs = {"params": 10, "macs": 100, "stored_bytes": 4000, "batch": 1, "switch_ms": None, "prepare_ms": 7.0}
    about = {"methods": methods, "represents": [], "setting": "", "runtime": runtime, "arithmetic": arithmetic}
    return {**about, **costs, "ms": ms, **more}


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
            form(["optg", "rigl"], "own", "fp32", 4.0, represents=["rigl"], note="a note", **sparse),
            form(["minmax"], "packed_int8", "int8", 6.0, setting="4 bits", published="5 ms"),
        ]
        content = {"network": "Small", "size": 32, "threads": 1, "process": process, "rounds": 10, "forms": forms}
        content |= {"machine": {"cpu": "a processor"}, "dense": [DENSE] if process == 0 else []}
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
    assert (sparse.processes, sparse["rounds"]) == (2, 20)
    quantized = table[table.setting == "4 bits"].iloc[0]
    assert (quantized.speedup_low, quantized.speedup_high) == (0.5, 1.0), "over 8 bits"
    assert (quantized.speedup_fp32_low, quantized.speedup_fp32_high) == (8 / 6, 16 / 6)


def test_a_method_is_represented_by_the_row_that_says_so(tmp_path: Path) -> None:
    found = representative(summarize(read(files(tmp_path))))
    assert list(found.index) == ["rigl"]
    assert (found.loc["rigl"].network, found.loc["rigl"].setting, found.loc["rigl"].speedup) == ("Small", "75 %", 3.0)


def test_the_page_names_all_methods_that_deploy_the_same_and_leaves_references_out(tmp_path: Path) -> None:
    written = write_deployments(files(tmp_path), discover(ROOT), "deployments", tmp_path)
    page = (tmp_path / "tables/deployments.md").read_text(encoding="utf-8")
    assert "| Small | OptG and RigL | 75 % | 1.00 kB | 25 | 12.00 (packed) | 4.00 (own) | 3.00 [2.00, 4.00] |" in page
    assert "| 8 bits |" not in page
    assert "OptG and RigL: a note." in page
    assert "| **" not in page and "5 ms" in page
    assert "### Quantization" in page and "| Small | 1 | 1 | 8.25 |" in page
    csv = pd.read_csv(tmp_path / "tables/deployments.csv")
    assert list(csv.methods) == ["minmax", "optg+rigl", "minmax"]
    assert list(csv.setting_slug) == ["8_bits", "75", "4_bits"]
    cells = _by_keys("deployments", csv.astype(str))
    assert cells.loc["deployments/optg+rigl/small/75/1/fp32:speedup"].tolist() == [3.0, 2.0, 4.0]
    assert "a processor" in page
    assert all(path.stat().st_size > 0 for path in written)
    assert {path.suffix for path in written} == {".csv", ".md", ".png", ".svg"}
