"""Tests of what the store shows of the results, and of what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from compressbench import tracking
from compressbench.tracking import store, writing
from tests.tracking.projects import HASH, LOSSES, TAGS, logged, of_kind, write


def test_a_network_is_one_run_with_what_people_compare(optg: Path) -> None:
    (run,) = of_kind(logged(optg), "run")
    assert run.info.run_name == "OptG 95 % · resnet_mini · seed 0"
    assert run.info.status == "FINISHED"
    expected = {
        "quality": 81.25,
        "stored_bytes": 70,
        "macs": 50,
        "params": 100,
        "speedup": 1.5,
        "training_seconds": 7.0,
    }
    assert expected.items() <= run.data.metrics.items()
    assert run.data.params == {"sparsity": "0.95"}
    assert TAGS.items() <= run.data.tags.items() and run.data.tags["level"] == "95 %"
    assert "72.45" in run.data.tags["published"]
    assert "README.md" in run.data.tags["mlflow.note.content"]
    client = store.connect(optg)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["README.md"]
    assert [p.value for p in client.get_metric_history(run.info.run_id, "loss")] == list(LOSSES)


def test_its_stages_are_nested_with_their_times_data_source_and_model(optg: Path) -> None:
    runs = logged(optg)
    (parent,) = of_kind(runs, "run")
    stages = {run.data.tags["stage"]: run for run in of_kind(runs, "stage")}
    assert set(stages) == {"compress", "evaluate", "latency"}
    assert {run.data.tags["mlflow.parentRunId"] for run in stages.values()} == {parent.info.run_id}
    compress = stages["compress"]
    assert compress.info.run_name == "compress · OptG 95 % · resnet_mini · seed 0"
    assert (compress.info.start_time, compress.info.end_time) == (1767261600000, 1767261607000)
    (read,) = compress.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("digits", HASH)
    assert json.loads(read.dataset.source) == {"uri": "data/digits", "pin": "data.dvc"}
    assert compress.data.tags["mlflow.source.name"] == "compressbench compress"
    assert compress.data.tags["mlflow.source.git.commit"] == "abc123"
    files = {file.path for file in store.connect(optg).list_artifacts(compress.info.run_id)}
    assert {"model.safetensors", "model.json", "history.csv", "run.json"} <= files


def test_a_dense_pretraining_is_a_run_of_its_own(root: Path) -> None:
    write(root, "pretrain")
    tracking.synchronise(root)
    (run,) = logged(root)
    assert run.data.tags["kind"] == "run" and "mlflow.parentRunId" not in run.data.tags
    assert run.info.run_name == "Dense pretraining · resnet_mini · seed 0"
    assert run.info.status == "FINISHED"


def test_curves_of_a_run_go_on_from_stage_to_stage(root: Path) -> None:
    write(root, "compress")
    write(root, "finetune", started="2026-01-01T10:00:08+00:00", ended="2026-01-01T10:00:09+00:00")
    tracking.synchronise(root)
    (parent,) = of_kind(logged(root), "run")
    drawn = store.connect(root).get_metric_history(parent.info.run_id, "loss")
    assert [(point.step, point.value) for point in drawn] == list(enumerate(LOSSES * 2))
    assert parent.info.status == "SCHEDULED"  # it is not evaluated yet


def test_a_newer_result_takes_the_place_of_the_older_one(optg: Path) -> None:
    write(optg, "compress", configuration={"sparsity": 0.5})
    assert tracking.synchronise(optg) == (1, 3, 3)
    runs = logged(optg)
    (parent,) = of_kind(runs, "run")
    assert parent.data.params == {"sparsity": "0.5"}
    assert sorted(run.data.tags["stage"] for run in of_kind(runs, "stage")) == ["compress", "evaluate", "latency"]
    assert {run.data.tags["mlflow.parentRunId"] for run in of_kind(runs, "stage")} == {parent.info.run_id}


def test_damaged_records_are_named_and_the_others_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root, "compress")
    (write(root, "evaluate") / "run.json").write_text("{", encoding="utf-8")
    assert tracking.synchronise(root) == (1, 1, 1)
    assert "evaluate/run.json is damaged" in caplog.text


def test_only_what_is_in_the_store_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "compress")
    write(root, "compress", tags={"seed": "1"})
    log = writing.add_files

    def failing(client: Any, run: Any, files: Any) -> None:
        if run.data.tags["seed"] == "1":
            raise OSError("no room")
        log(client, run, files)

    monkeypatch.setattr(writing, "add_files", failing)
    assert tracking.synchronise(root) == (1, 1, 2)
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.synchronise(root) == (1, 2, 2)
    assert {run.info.status for run in of_kind(logged(root), "stage")} == {"FINISHED"}


def test_a_second_call_has_nothing_to_log(optg: Path) -> None:
    before = {run.info.run_id for run in logged(optg)}
    assert tracking.synchronise(optg) == (0, 3, 3)
    assert {run.info.run_id for run in logged(optg)} == before


def test_runs_deleted_in_the_store_are_logged_again(optg: Path) -> None:
    client = store.connect(optg)
    for run in logged(optg):
        client.delete_run(run.info.run_id)
    assert tracking.synchronise(optg) == (3, 3, 3)


def test_data_that_nothing_pins_have_the_hash_of_their_manifest(optg: Path) -> None:
    write(optg, "compress", tags={"setting": "p90"}, data_hash="sample-0123456789abcdef01234567")
    tracking.synchronise(optg)
    (stage,) = [run for run in of_kind(logged(optg), "stage") if run.data.tags["setting"] == "p90"]
    (read,) = stage.inputs.dataset_inputs
    assert read.dataset.digest == "sample-0123456789abcdef01234567"
    assert json.loads(read.dataset.source) == {"name": "digits"}
