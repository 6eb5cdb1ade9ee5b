"""Valid JSON of a wrong shape: one sentence, which says where, and the other runs are reported."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compressbench.errors import UserError
from compressbench.plan import Run
from compressbench.reporting.collect import collect
from compressbench.reporting.published import counts_table
from compressbench.reporting.shapes import SHAPES, damage

RUN = Run("desk", "digits", "resnet", "optg", "p90", 0)
TIMES = {
    "dense_ms": {"median": 2.0},
    "compressed_ms": {"median": 1},
    "speedup": {"median": 2.0, "low": 1.9, "high": 2.1},
}
MEASURED = {"runtime": "torch_eager", "threads": 1, **TIMES}
SESSION = {
    "draw": 0, "session": 0, "classes": 6, "accuracy": 93.0, "new": 93.0, "old": None, "forgetting": None,
}  # fmt: skip
GOOD: list[tuple[str, Any]] = [
    ("metrics.json", {"quality": {"top1": 91.0, "sessions": [SESSION], "other": "text"}, "macs": 7, "more": [1]}),
    ("metrics.json", {"points": {"low": {"label": "low", "quality": {}}}, "stored_bytes": 5}),
    ("latency.json", {"measurements": [MEASURED], "throughput": [TIMES | {"batch": 64, "images": 10}]}),
    ("latency.json", {"points": {"low": {"measurements": []}}, "switching": {"switch_ms": {"median": 0.5}}}),
    ("run.json", {}),
    ("record.json", {"anything": [None]}),
    ("counts.json", []),
]
BAD: list[tuple[str, Any, str]] = [
    *((name, content, "valid") for name in SHAPES for content in (None, 3, "text", [3])),
    ("metrics.json", {}, "quality: Field required"),
    ("metrics.json", {"quality": [91.0]}, "quality: "),
    ("metrics.json", {"quality": {"top1": "91"}}, "quality.top1: Input should be a valid number"),
    ("metrics.json", {"quality": {"images": [1]}}, "quality.images: "),
    ("metrics.json", {"quality": {"sessions": [{"draw": 0}]}}, "quality.sessions.0.session: Field required"),
    ("metrics.json", {"quality": {}, "macs": {}}, "macs: "),
    ("metrics.json", {"points": [1]}, "points: "),
    ("metrics.json", {"points": {"low": {"quality": {}}}, "stored_bytes": 5}, "points.low.label: Field required"),
    ("latency.json", {}, "measurements: Field required"),
    ("latency.json", {"measurements": [MEASURED | {"speedup": 2.0}]}, "measurements.0.speedup: "),
    ("latency.json", {"points": {"low": {"measurements": [{}]}}}, "points.low.measurements.0.dense_ms: Field required"),
    ("latency.json", {"measurements": [], "switching": {"switch_ms": 0.5}}, "switching.switch_ms: "),
    ("run.json", {"wall_seconds": "long"}, "wall_seconds: "),
    ("counts.json", [{"method": "optg"}], "0.model: Field required"),
]


@pytest.mark.parametrize(("name", "content"), GOOD)
def test_what_the_stages_write_can_be_read(name: str, content: Any) -> None:
    assert damage(name, content) == ""


@pytest.mark.parametrize(("name", "content", "reason"), BAD)
def test_another_shape_is_said_with_its_place(name: str, content: Any, reason: str) -> None:
    assert reason in damage(name, content)


@pytest.mark.parametrize(("name", "content", "reason"), [case for case in BAD if case[0] != "counts.json"])
def test_a_report_lists_the_file_and_goes_on(tmp_path: Path, name: str, content: Any, reason: str) -> None:
    stage = {"metrics.json": "evaluate", "latency.json": "latency"}.get(name, "compress")
    path = tmp_path / RUN.folder(stage).relative_to("results") / name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    listed = collect(tmp_path, "desk", [RUN]).missing.set_index("result").reason
    if name in listed.index:
        assert listed[name].startswith("damaged: ") and reason in listed[name]
    assert (name in listed.index) == (stage in ("evaluate", "latency"))


def test_damaged_counts_are_named(tmp_path: Path) -> None:
    file = tmp_path / "counts.json"
    file.write_text('[{"method": "optg"}]', encoding="utf-8")
    with pytest.raises(UserError, match=r"counts.json is damaged \(0.model: Field required\); delete it"):
        counts_table(file, pd.DataFrame())
