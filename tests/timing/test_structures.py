"""The benchmark of published structures, on a small one."""

from pathlib import Path

import pytest

from compressbench.errors import UserError
from compressbench.method import Structure
from compressbench.reporting.structures import write_structures
from compressbench.timing import structures

SMALL = Structure("small", "half", "plain", {"widths": [8, 8], "strides": [1, 2]}, {"body.0.conv": 4}, (1, 12, 12))


def test_structures_are_timed_beside_their_dense_networks(tmp_path: Path) -> None:
    table = structures.measure({"toy": [SMALL], "none": []}, runtimes=["torch_eager", "onnxruntime"], rounds=3)
    assert list(table.runtime) == ["torch_eager", "onnxruntime"]
    assert (table.latency_ms > 0).all() and (table.dense_ms > 0).all()
    macs, narrow = 9 * 144 * 8 + 9 * 36 * 64 + 80, 9 * 144 * 4 + 9 * 36 * 32 + 80
    assert table.macs_reduction.iloc[0] == pytest.approx(1 - narrow / macs)
    files = write_structures(table, {"toy": "Toy"}, "a machine", tmp_path)
    assert all(file.exists() for file in files)
    page = (tmp_path / "tables/structures.md").read_text(encoding="utf-8")
    assert "| small | Toy, half |" in page and "a machine" in page


def test_without_a_structure_it_says_so() -> None:
    with pytest.raises(UserError, match="none of toy has a published structure"):
        structures.measure({"toy": []})
