"""Tests of the result files of one run: each file read as its content, also where it is missing or damaged."""

import math
from pathlib import Path

import pytest

from compressbench.reporting.run_files import RunFiles, read, read_history
from tests.reporting.run_results import OTHER, POINTS, RUN, write


def test_a_missing_and_a_damaged_file_have_no_content_but_a_reason(tmp_path: Path) -> None:
    assert read(tmp_path / "metrics.json") == (None, "not there")
    (tmp_path / "metrics.json").write_text('{"quality": ', encoding="utf-8")
    content = read(tmp_path / "metrics.json")
    assert content.value is None and content.reason.startswith("damaged: ")


def test_seconds_are_the_sum_over_the_stages_of_the_method(tmp_path: Path) -> None:
    assert math.isnan(RunFiles(tmp_path, RUN, RUN).seconds)
    for stage, seconds in (("synthesize", 1.0), ("compress", 2.0), ("finetune", 4.0), ("evaluate", 100.0)):
        write(tmp_path, stage, "run.json", {"wall_seconds": seconds})
    assert RunFiles(tmp_path, RUN, RUN).seconds == 7.0


def test_latency_is_that_of_the_run_that_was_timed(tmp_path: Path) -> None:
    write(tmp_path, "latency", "latency.json", {"measurements": []}, OTHER)
    files = RunFiles(tmp_path, RUN, OTHER)
    assert files.latency.value == {"measurements": []} and not files.timed_itself
    assert RunFiles(tmp_path, RUN, RUN).latency.reason == "not there"
    assert RunFiles(tmp_path, RUN, None).latency == (None, "")


def test_operating_points_have_labels(tmp_path: Path) -> None:
    assert RunFiles(tmp_path, RUN, RUN).labels == {}
    assert write(tmp_path, "evaluate", "metrics.json", {"stored_bytes": 8, "points": POINTS}).labels == {
        "low": "low",
        "high": "high",
    }


@pytest.mark.parametrize(
    ("text", "quality"),
    [
        ("epoch,loss,validation_top1\n0,2.0,50.0\n1,1.0,\n", [50.0, math.nan]),
        ("epoch,loss,validation_psnr\n0,2.0,30.5\n", [30.5]),
        ("epoch,loss\n0,2.0\n", [math.nan]),
    ],
)
def test_the_quality_of_an_epoch_is_what_was_validated(tmp_path: Path, text: str, quality: list[float]) -> None:
    (tmp_path / "history.csv").write_text(text, encoding="utf-8")
    frame = read_history(tmp_path / "history.csv")
    assert frame is not None and list(frame.quality) == pytest.approx(quality, nan_ok=True)


@pytest.mark.parametrize("text", ["", "steps,top1\n1,2\n", 'epoch,loss\n"0,1\n'])
def test_a_history_without_epochs_or_losses_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.csv").write_text(text, encoding="utf-8")
    assert read_history(tmp_path / "history.csv") is None
    assert read_history(tmp_path / "absent.csv") is None
