"""Every reader on a small made-up folder, and what a damaged file costs."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from compressbench.reporting import readers
from compressbench.reporting.readers import POINT, READERS
from compressbench.reporting.run_files import RunFiles
from tests.reporting.run_results import ABSENT, MEASUREMENT, OTHER, POINTS, RUN, write

TIMES = {"dense_ms": 2.0, "latency_ms": 1.0, "speedup": 2.0, "low": 1.9, "high": 2.1}


def test_without_files_only_what_is_missing_has_rows(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, RUN, RUN)
    assert {name: rows for name, reader in READERS.items() if (rows := list(reader.rows(files)))} == {"missing": ABSENT}


def test_runs_have_quality_costs_and_the_seconds_of_their_stages(tmp_path: Path) -> None:
    write(tmp_path, "compress", "run.json", {"wall_seconds": 1.5})
    write(tmp_path, "finetune", "run.json", {"wall_seconds": 2.0})
    (row,) = list(readers.runs(write(tmp_path, "evaluate", "metrics.json", {"quality": {"top1": 91.0}, "macs": 7})))
    assert row["quality"] == 91.0 and row["seconds"] == 3.5 and row["macs"] == 7
    assert row["ssim"] is None and row["stored_bytes"] is None


def test_the_quality_of_super_resolution_is_its_psnr(tmp_path: Path) -> None:
    files = write(tmp_path, "evaluate", "metrics.json", {"quality": {"psnr": 32.0, "ssim": 0.9}})
    (row,) = list(readers.runs(files))
    assert (row["quality"], row["ssim"]) == (32.0, 0.9) and math.isnan(row["seconds"])


def test_a_model_with_operating_points_has_a_row_for_each(tmp_path: Path) -> None:
    files = write(tmp_path, "evaluate", "metrics.json", {"points": POINTS, "stored_bytes": 100})
    assert [(row[POINT], row["quality"]) for row in readers.runs(files)] == [("low", 80.0), ("high", 90.0)]
    assert list(readers.records(files)) == [{"name": "stored_bytes_of_all_points", "value": 100.0}]
    assert files.labels == {"low": "low", "high": "high"}


def test_images_have_a_row_per_photograph(tmp_path: Path) -> None:
    scores = {"coffee": {"psnr": 31.0, "ssim": 0.9}, "chelsea": {"psnr": 33.0, "ssim": 0.8}}
    files = write(tmp_path, "evaluate", "metrics.json", {"quality": {"psnr": 32.0, "images": scores}})
    assert list(readers.images(files)) == [
        {"image": "coffee", "psnr": 31.0, "ssim": 0.9},
        {"image": "chelsea", "psnr": 33.0, "ssim": 0.8},
    ]


def test_sessions_are_rows_and_numbers_with_names(tmp_path: Path) -> None:
    session = {"draw": 2, "session": 0, "classes": 6, "accuracy": 93.0, "new": 93.0, "old": None, "forgetting": None}
    metrics = {"quality": {"top1": 93.0, "sessions": [session | {"by_session": [93.0]}]}}
    files = write(tmp_path, "evaluate", "metrics.json", metrics)
    assert list(readers.sessions(files)) == [session]
    assert list(readers.numbers(files)) == [
        {"name": "quality.top1", "value": 93.0},
        {"name": "quality.sessions.draw2_session0.accuracy", "value": 93.0},
        {"name": "quality.sessions.draw2_session0.new", "value": 93.0},
    ]


def test_records_are_the_numbers_of_methods_and_of_models_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path, "synthesize", "record.json", {"seconds": 12.5, "images": [1, 2], "form": "dense"})
    timed = {"measurements": [], "switching": {"switch_ms": {"median": 0.5}}, "blocks": {"rank_correlation": 0.9}}
    assert list(readers.records(write(tmp_path, "latency", "latency.json", timed))) == [
        {"name": "switch_ms", "value": 0.5},
        {"name": "block_sums_rank_correlation", "value": 0.9},
        {"name": "seconds", "value": 12.5},
    ]


def test_numbers_are_what_must_come_out_equal_and_no_times(tmp_path: Path) -> None:
    write(tmp_path, "compress", "record.json", {"density": [0.1, 0.2]})
    write(tmp_path, "compress", "run.json", {"wall_seconds": 1.5})
    write(tmp_path, "latency", "latency.json", {"measurements": [MEASUREMENT]})
    content = {"points": {"low": {"label": "low", "quality": {"top1": 80.0}}}, "stored_bytes": 100}
    assert list(readers.numbers(write(tmp_path, "evaluate", "metrics.json", content))) == [
        {POINT: "low", "name": "quality.top1", "value": 80.0},
        {"name": "stored_bytes", "value": 100.0},
        {"name": "compress.density.0", "value": 0.1},
        {"name": "compress.density.1", "value": 0.2},
    ]


def test_latency_says_how_many_processes_measured_and_on_which_processor(tmp_path: Path) -> None:
    several = MEASUREMENT | {"arithmetic": "int8", "processes": [{"dense_ms": 2.0, "compressed_ms": 1.0}] * 3}
    timed = {"measurements": [several], "machine": {"cpu": "a processor"}}
    (row,) = readers.latency(write(tmp_path, "latency", "latency.json", timed))
    assert (row["arithmetic"], row["processes"], row["cpu"]) == ("int8", 3, "a processor")


def test_latency_has_a_row_per_measurement_and_says_whose_it_is(tmp_path: Path) -> None:
    files = write(tmp_path, "latency", "latency.json", {"measurements": [MEASUREMENT]})
    environment = {"runtime": "torch_eager", "threads": 1, "library": "torch 2", "isa": "AVX2", "rounds": 50}
    older = {"arithmetic": None, "processes": 1, "cpu": ""}
    expected = environment | {"layers": None} | TIMES | older
    assert list(readers.latency(files)) == [expected | {"own": True}]
    assert list(readers.latency(replace(files, run=OTHER))) == [expected | {"own": False}]
    assert list(readers.latency(replace(files, timed=None))) == []


def test_throughput_has_a_row_per_batch_size(tmp_path: Path) -> None:
    batch = MEASUREMENT | {"batch": 64, "images": 1000}
    files = write(tmp_path, "latency", "latency.json", {"measurements": [], "throughput": [batch]})
    assert list(readers.throughput(files)) == [{"batch": 64, "images": 1000} | TIMES]


def test_skipped_runtimes_are_those_of_runs_timed_themselves(tmp_path: Path) -> None:
    skipped = {"runtime": "compressbench", "reason": "no block-sparse layer"}
    files = write(tmp_path, "latency", "latency.json", {"measurements": [], "skipped": [skipped]})
    assert list(readers.skipped(files)) == [skipped]
    assert list(readers.skipped(replace(files, run=OTHER))) == []


@pytest.mark.parametrize("column", ["validation_top1", "validation_psnr"])
def test_history_has_the_epochs_of_both_stages(tmp_path: Path, column: str) -> None:
    write(tmp_path, "compress", "history.csv", "epoch,loss\n0,2.0\n")
    files = write(tmp_path, "finetune", "history.csv", f"epoch,loss,{column}\n0,1.0,\n1,0.5,90.0\n")
    first, second, third = list(readers.history(files))
    assert (first["stage"], first["epoch"], first["loss"]) == ("compress", 0, 2.0)
    assert math.isnan(first["quality"]) and math.isnan(second["quality"])
    assert (third["stage"], third["epoch"], third["quality"]) == ("finetune", 1, 90.0)


@pytest.mark.parametrize("text", ["", "epoch,lr\n0,0.1\n", "epoch,loss\n0,1\n0,1,2,3\n", "epoch,loss\n0,high\n"])
def test_a_damaged_history_has_no_rows(tmp_path: Path, text: str) -> None:
    assert list(readers.history(write(tmp_path, "finetune", "history.csv", text))) == []


def test_missing_says_what_is_absent_and_what_is_damaged(tmp_path: Path) -> None:
    files = write(tmp_path, "latency", "latency.json", '{"measurements": [')
    absent, damaged = list(readers.missing(files))
    assert absent == ABSENT[0]
    assert damaged["result"] == "latency.json" and damaged["reason"].startswith("damaged: ")
    assert list(readers.missing(RunFiles(tmp_path, OTHER, None))) == ABSENT[:1]
