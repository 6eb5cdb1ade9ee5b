"""Tests of what every stage shares: its history, and run.json as the mark of a finished result."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from compressbench.plan import provenance
from compressbench.stages.runner import History, running
from compressbench.tracking.gate import VARIABLE
from tests.plan.jobs import COMPRESS


class Tracker:
    """Stands for a tracker: keeps what it is told."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        self.logged.append((values, step))


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setenv(provenance.VERSION_VARIABLE, "abc")


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "history.csv", Tracker())  # type: ignore[arg-type]
    yield history
    if history.bar is not None:
        history.bar.close()


def test_a_column_that_comes_later_is_empty_in_the_rows_before(history: History) -> None:
    history.epoch(0, 3, {"loss": 2.0})
    assert history.file.read_text(encoding="utf-8") == "epoch,loss\n0,2.0\n"
    history.epoch(1, 3, {"loss": 1.0, "top1": 50.0})
    assert history.file.read_text(encoding="utf-8") == "epoch,loss,top1\n0,2.0,\n1,1.0,50.0\n"


def test_trainings_of_one_stage_are_logged_one_after_the_other(history: History) -> None:
    for epoch in (0, 1, 0):
        history.epoch(epoch, 2, {"loss": float(epoch)})
    assert history.tracker.logged == [({"loss": 0.0}, 0), ({"loss": 1.0}, 1), ({"loss": 0.0}, 2)]  # type: ignore[attr-defined]
    assert [row["epoch"] for row in history.rows] == [0, 1, 0]


def test_images_per_second_are_logged_and_stand_in_a_file_of_their_own(history: History) -> None:
    """The first epoch comes from a checkpoint, and the third from another training of the stage."""
    history.epoch(0, 2, {"loss": 2.0})
    history.throughput(250.5)
    history.epoch(1, 2, {"loss": 1.0})
    history.throughput(99.0)
    history.epoch(0, 1, {"loss": 0.5, "top1": 90.0})
    assert history.bar is not None and "images_per_second=99" in history.bar.postfix
    assert history.file.read_text(encoding="utf-8") == "epoch,loss,top1\n0,2.0,\n1,1.0,\n0,0.5,90.0\n"
    written = history.file.with_name("throughput.csv").read_text(encoding="utf-8")
    assert written == "row,images_per_second\n1,250.5\n2,99.0\n"
    assert [values for values, _ in history.tracker.logged] == [  # type: ignore[attr-defined]
        {"loss": 2.0},
        {"loss": 1.0, "images_per_second": 250.5},
        {"loss": 0.5, "top1": 90.0, "images_per_second": 99.0},
    ]


def test_run_json_comes_last_and_says_how_long_the_stage_took(tmp_path: Path) -> None:
    record = tmp_path / COMPRESS.folder / provenance.FILE
    with running(tmp_path, COMPRESS, threads=1) as stage:
        assert stage.folder == record.parent and not record.exists()
    content = json.loads(record.read_text(encoding="utf-8"))
    assert content["configuration_hash"] == COMPRESS.digest and content["code_version"] == "abc"
    assert content["started"] <= content["ended"] and content["wall_seconds"] >= 0
    assert (stage.folder / "history.csv").read_text(encoding="utf-8") == "epoch\n"  # nothing was trained


def test_a_stage_that_fails_leaves_no_run_json_not_even_an_older_one(tmp_path: Path) -> None:
    record = tmp_path / COMPRESS.folder / provenance.FILE
    record.parent.mkdir(parents=True)
    record.write_text("{}", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), running(tmp_path, COMPRESS, threads=1):
        assert not record.exists()
        raise ZeroDivisionError
    assert not record.exists()
