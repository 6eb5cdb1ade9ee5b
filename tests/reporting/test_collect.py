"""Tests of the frames of results."""

from pathlib import Path

import pandas as pd
import pytest

from compressbench.reporting.collect import KEYS, Results, collect
from compressbench.reporting.readers import READERS
from tests.reporting.run_results import OTHER, POINTS, RUN, write, write_all


@pytest.mark.parametrize(
    ("stage", "name", "lost", "listed"),
    [
        ("evaluate", "metrics.json", {"runs": 1, "numbers": 2}, True),
        ("latency", "latency.json", {"latency": 1, "throughput": 1}, True),
        ("compress", "record.json", {"records": 1, "numbers": 1}, False),
        ("finetune", "run.json", {}, False),
        ("finetune", "history.csv", {"history": 1}, False),
    ],
)
def test_a_damaged_file_costs_a_row_in_missing_and_its_own_rows_alone(
    tmp_path: Path, stage: str, name: str, lost: dict[str, int], listed: bool
) -> None:
    for run in (RUN, OTHER):
        write_all(tmp_path, run)
    whole = collect(tmp_path, "desk", [RUN, OTHER])
    write(tmp_path, stage, name, '{"')
    damaged = collect(tmp_path, "desk", [RUN, OTHER])
    for frame in READERS:
        before, after = getattr(whole, frame), getattr(damaged, frame)
        pd.testing.assert_frame_equal(_of_other(before), _of_other(after), check_dtype=False)
        assert len(after) - len(before) == (listed if frame == "missing" else -lost.get(frame, 0)), frame
    assert list(damaged.missing.result) == [name] * listed


def _of_other(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame.seed == OTHER.seed].reset_index(drop=True)


def test_every_frame_has_the_keys_and_the_declared_columns_also_without_rows(tmp_path: Path) -> None:
    results = collect(tmp_path, "desk", [])
    for name, reader in READERS.items():
        assert list(getattr(results, name)) == [*KEYS, *reader.columns]
        assert all(getattr(results, name)[column].dtype == float for column in reader.floats)
    assert set(READERS) < set(Results.__dataclass_fields__)


def test_rows_of_an_operating_point_are_those_of_a_setting_with_its_name(tmp_path: Path) -> None:
    write(tmp_path, "evaluate", "metrics.json", {"points": POINTS, "stored_bytes": 100})
    results = collect(tmp_path, "desk", [RUN])
    assert list(results.runs.setting) == ["p90@low", "p90@high"]
    assert list(results.records.setting) == ["p90"]
    assert results.points == {("digits", "resnet", "optg", "p90"): {"low": "low", "high": "high"}}
