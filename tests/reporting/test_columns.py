"""A column is one entry: its header, its cells and its note are in the table exactly when its condition says so."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.reporting import comparison
from compressbench.reporting.collect import collect
from compressbench.reporting.columns import Column, View, plain, render
from compressbench.reporting.groups import group_runs
from compressbench.reporting.summary import summarize
from compressbench.reporting.text import quantity

VIEW = View(
    pd.DataFrame({"name": ["a", "b"], "macs": [1500.0, 3000.0], "bits": [4, 4]}),
    SimpleNamespace(unit="points", quantized=True),
)
NAME = plain("name", "network")
MACS = Column("macs", "MACs", lambda r: quantity(r.macs), note="MACs: multiply-accumulates.")
BITS = Column("bits", "bits", lambda r: str(r.bits), note="bits: of weights.", once=True)


def never(view: View) -> bool:
    return False


def refuse(row: object) -> str:
    raise AssertionError("the cells of a hidden column are not asked for")


def test_a_column_has_a_header_cells_and_a_note() -> None:
    table, notes = render([NAME, MACS], VIEW)
    assert table.splitlines() == ["| network | MACs |", "|---|---:|", "| a | 1.50 k |", "| b | 3.00 k |"]
    assert notes == ["MACs: multiply-accumulates."]


def test_a_hidden_column_leaves_neither_header_nor_cells_nor_note() -> None:
    hidden = replace(MACS, text=refuse, shown=never)
    assert render([NAME, hidden], VIEW) == render([NAME], VIEW)


def test_a_condition_sees_the_rows_and_the_group() -> None:
    asked = replace(MACS, shown=lambda view: view.group.quantized and view.rows.macs.max() > 2000)
    assert "MACs" in render([NAME, asked], VIEW).table
    assert "MACs" not in render([NAME, asked], VIEW._replace(rows=VIEW.rows[:1])).table


def test_headers_and_notes_can_follow_from_the_group() -> None:
    column = replace(MACS, header=lambda view: f"MACs ({view.group.unit})", note=lambda view: "")
    table, notes = render([NAME, column], VIEW)
    assert "| MACs (points) |" in table and notes == []


@pytest.mark.parametrize("shown", [lambda view: True, never])
def test_cells_that_are_equal_in_every_row_are_said_once(shown) -> None:  # type: ignore[no-untyped-def]
    table, notes = render([NAME, replace(BITS, shown=shown)], VIEW)
    assert "bits" not in table
    assert notes[-1] == "The same in every row: bits 4."
    assert ("bits: of weights." in notes) == shown(VIEW), "the note holds for what is said once"


def test_cells_that_differ_in_a_row_stay_a_column() -> None:
    table, notes = render([NAME, BITS], VIEW._replace(rows=VIEW.rows.assign(bits=[4, 2])))
    assert "| a | 4 |" in table and notes == ["bits: of weights."]


def test_notes_follow_the_columns_but_for_those_that_come_first() -> None:
    columns = [replace(MACS, key=key, header=key, note=key) for key in ("x", "y", "z")]
    assert render(columns, VIEW).notes == ["x", "y", "z"]
    assert render(columns, VIEW, notes=("z", "absent", "y")).notes == ["z", "y", "x"]


def test_a_column_added_to_the_comparison_is_in_the_tables_that_it_is_for(
    report: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = Column(
        "kept", "kept", lambda r: quantity(r.kept_weights), note="`kept`: weights.", shown=lambda v: v.group.sparse
    )
    monkeypatch.setattr(comparison, "COMPARISON", (*comparison.COMPARISON, column))
    runs = [run for run in report.runs if run.model in ("resnet_mini", "resnet8")]
    results = collect(report.results, "desk", runs)
    published = pd.DataFrame(columns=["dataset", "model", "setting", "metric", "value", "source", "method"])
    pages = {
        group.model: comparison.comparison(group, summarize(results, group, published))[1].splitlines()
        for group in group_runs(runs, report.declarations)
    }
    assert pages["resnet_mini"][2].endswith("| kept |") and "- `kept`: weights." in pages["resnet_mini"]
    kept = next(line for line in pages["resnet_mini"] if line.startswith("| **OptG** | 95 %"))
    assert kept.endswith(f"| {quantity(round(74_512 * 0.05))} |")
    assert not any("kept |" in line or "`kept`" in line for line in pages["resnet8"])
