"""MLflow as a view of results/: what it shows, and that no state of its store stops or hides anything."""

import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from compressbench import tracking
from compressbench.errors import UserError
from compressbench.tracking import mirror, store, views, writing
from compressbench.tracking.gate import VARIABLE
from compressbench.tracking.live import Tracker
from tests.conftest import ROOT

TAGS = {"scale": "smoke", "dataset": "digits", "model": "resnet_mini", "method": "optg", "setting": "p95", "seed": "0"}
HASH = "553da6572661fe845a2b958b679f1165.dir"
EXPERIMENT = "compressbench smoke"
LOSSES = (2.0, 1.0, 0.5)


def write(root: Path, stage: str, **changes: Any) -> Path:
    """What a stage leaves: run.json last, and what it measures."""
    tags = TAGS | {"stage": stage} | changes.pop("tags", {})
    pretrain = stage == "pretrain"
    if pretrain:
        tags |= {"method": "pretrain", "setting": "dense"}
    name = f"{tags['scale']}/{tags['dataset']}/{tags['model']}"
    own = (
        f"pretrain/seed{tags['seed']}" if pretrain else f"{tags['method']}/{tags['setting']}/seed{tags['seed']}/{stage}"
    )
    folder = root / "results" / name / own
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    if stage in ("pretrain", "compress", "finetune"):
        rows = "".join(f"{epoch},{loss}\n" for epoch, loss in enumerate(LOSSES))
        (folder / "history.csv").write_text(f"epoch,loss\n{rows}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(b"weights")
        files["model.json"] = {}
    if stage == "evaluate":
        costs = {"params": 100, "macs": 50, "bit_operations": 51_200, "stored_bytes": 70}
        files["metrics.json"] = {"quality": {"top1": 81.25}} | costs
    if stage == "latency":
        measured = {
            "runtime": "torch_eager",
            "threads": 1,
            "dense_ms": {"median": 3.0},
            "compressed_ms": {"median": 2.0},
        }
        speedup = {"median": 1.5, "low": 1.4, "high": 1.6}
        files["latency.json"] = {"measurements": [measured | {"speedup": speedup}], "skipped": []}
    record = {
        "run": tags, "configuration": {"pair": {"images": 64}, "sparsity": 0.95}, "data_hash": HASH, "code_version": "abc123",
        "wall_seconds": 7.0, "peak_memory_mb": 9.0, "started": "2026-01-01T10:00:00+00:00",
        "ended": "2026-01-01T10:00:07+00:00",
    }  # fmt: skip
    for file, content in (files | {"run.json": record | changes}).items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema: making it takes seconds."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store.connect(root)
    return root / store.DATABASE


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a store and without results."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    return make_project(root, empty_store)


def make_project(root: Path, empty_store: Path | None) -> Path:
    root.mkdir()
    for name in ("methods", "config", "compressbench", "data.dvc"):
        (root / name).symlink_to(ROOT / name)
    if empty_store:
        shutil.copy(empty_store, root / store.DATABASE)
    return root


def logged(root: Path, *, deleted: bool = False) -> list[Any]:
    """The runs of the store."""
    from mlflow.entities import ViewType

    client = store.connect(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    return list(client.search_runs([experiment.experiment_id], run_view_type=kind))


def of_kind(runs: list[Any], kind: str) -> list[Any]:
    return [run for run in runs if run.data.tags["kind"] == kind]


def command(root: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "compressbench", *arguments], cwd=root, capture_output=True, text=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(root)} | environment, timeout=300,
    )  # fmt: skip


# What the store shows


@pytest.fixture
def optg(root: Path) -> Path:
    for stage in ("compress", "evaluate", "latency"):
        write(root, stage)
    tracking.synchronise(root)
    return root


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
    assert compress.data.tags["mlflow.source.name"] == "compressbench compress"
    assert compress.data.tags["mlflow.source.git.commit"] == "abc123"
    files = {file.path for file in store.connect(optg).list_artifacts(compress.info.run_id)}
    assert {"model.safetensors", "model.json", "history.csv", "run.json"} <= files


def test_artifacts_of_a_local_store_take_no_room(optg: Path) -> None:
    (stage,) = [run for run in logged(optg) if run.data.tags.get("stage") == "compress"]
    artifact = optg / store.ARTIFACTS / stage.info.run_id / "artifacts" / "model.safetensors"
    assert artifact.samefile(optg / "results/smoke/digits/resnet_mini/optg/p95/seed0/compress/model.safetensors")


def test_older_results_without_times_end_when_they_were_written(root: Path) -> None:
    folder = write(root, "compress", started=None, ended=None)
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del content["started"], content["ended"]
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    os.utime(folder / "run.json", (1_700_000_000, 1_700_000_000))
    tracking.synchronise(root)
    (stage,) = of_kind(logged(root), "stage")
    assert (stage.info.start_time, stage.info.end_time) == (1_699_999_993_000, 1_700_000_000_000)


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


def test_an_experiment_opens_on_training_runs_with_a_view_of_the_results(root: Path) -> None:
    tracking.prepare(root, "smoke")
    found = store.connect(root).get_experiment_by_name(EXPERIMENT)
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    state = json.loads(found.tags[f"mlflow.sharedViewState.{views.VIEW}"])
    assert state["orderByKey"] == "metrics.`quality`" and not state["orderByAsc"]
    assert f"viewStateShareKey={views.VIEW}" in views.page(found.experiment_id)
    assert found.tags["mlflow.note.content"].count(views.page(found.experiment_id)[1:]) == 2


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


# Counting


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


def test_a_deleted_experiment_is_restored(optg: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = store.connect(optg)
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    write(optg, "pretrain")
    assert tracking.synchronise(optg) == (1, 4, 4)
    assert "it is restored" in caplog.text
    assert client.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"
    assert len(logged(optg)) == 5


def test_runs_deleted_in_the_store_are_logged_again(optg: Path) -> None:
    client = store.connect(optg)
    for run in logged(optg):
        client.delete_run(run.info.run_id)
    assert tracking.synchronise(optg) == (3, 3, 3)


# Places


def test_a_project_that_moved_takes_its_artifacts_along(optg: Path, tmp_path: Path) -> None:
    new = tmp_path / "elsewhere"
    shutil.move(optg, new)
    write(new, "pretrain")
    tracking.synchronise(new)
    assert not optg.exists()
    client = store.connect(new)
    location = (new / store.ARTIFACTS).as_uri()
    assert client.get_experiment_by_name(EXPERIMENT).artifact_location == location
    for run in logged(new):
        assert run.info.artifact_uri.startswith(location)
        assert client.list_artifacts(run.info.run_id)


@pytest.mark.parametrize("name", ["what?", "a#b", "my project é", "100%20", "a?b#c=1&d e"])
def test_the_store_lies_in_the_project_whatever_its_folder_is_called(
    name: str, tmp_path: Path, empty_store: Path
) -> None:
    root = make_project(tmp_path / name, empty_store)
    write(root, "compress")
    process = command(root, "tracking", MLFLOW_TRACKING_URI="")
    assert process.returncode == 0, process.stderr
    assert "1 results logged; it has 1 of 1" in process.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with closing(sqlite3.connect((root / store.DATABASE).as_uri() + "?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    assert list(root.glob("mlartifacts/*/artifacts/model.safetensors"))
    assert {path.name for path in root.iterdir()} == {
        "methods", "config", "compressbench", "data.dvc", "results", "mlflow.db", "mlartifacts",
    }  # fmt: skip


# Stores that cannot be used


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def closed_port(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    yield


def garbage(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    (root / store.DATABASE).write_bytes(b"this is no database " * 400)
    yield


def locked(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setattr(store, "PATIENCE", 1)
    with closing(sqlite3.connect(root / store.DATABASE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def other_schema(version: str) -> Callable[[Path, pytest.MonkeyPatch], Iterator[None]]:
    def change(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
        with closing(sqlite3.connect(root / store.DATABASE)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
        yield

    return change


# 0c779009ac13 is a version of MLflow 1; no version is called ffffffffffff yet
KINDS = {
    "closed port": closed_port, "garbage": garbage, "locked": locked, "older schema": other_schema("0c779009ac13"),
    "newer schema": other_schema("ffffffffffff"),
}  # fmt: skip
SENTENCES = {
    "closed port": "no MLflow server answers", "garbage": "is damaged", "locked": "database is locked",
    "older schema": "schema", "newer schema": "schema",
}  # fmt: skip


@pytest.fixture(params=KINDS)
def unusable(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    for _ in KINDS[request.param](root, monkeypatch):
        yield root, SENTENCES[request.param]


def test_an_unusable_store_is_a_sentence_within_seconds(unusable: tuple[Path, str]) -> None:
    root, sentence = unusable
    start = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        tracking.synchronise(root)
    assert time.monotonic() - start < 10


def test_a_stage_warns_once_and_goes_on(unusable: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    root, sentence = unusable
    start = time.monotonic()
    tracker = Tracker(root, TAGS | {"stage": "compress"}, {})
    for epoch, loss in enumerate(LOSSES):
        tracker.metrics({"loss": loss}, epoch)
    tracker.complete(write(root, "compress"))
    assert time.monotonic() - start < 10
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and sentence in warnings[0].getMessage()


def test_the_gate_warns_once_for_all_jobs(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(root))
    for _ in closed_port(root, monkeypatch):
        told = tracking.gate("smoke")
    assert told == {VARIABLE: "off"}
    assert len(caplog.records) == 1 and "no MLflow server answers" in caplog.text
    caplog.clear()
    monkeypatch.setenv(VARIABLE, "off")
    Tracker(root, TAGS | {"stage": "compress"}, {}).metrics({"loss": 1.0})
    assert not caplog.records
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.gate("smoke") == {}


def test_by_hand_it_is_an_error_and_in_the_workflow_a_warning(root: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    process = command(root, "tracking", MLFLOW_TRACKING_URI=address)
    assert process.returncode == 2 and process.stderr.splitlines()[-1].startswith("error: no MLflow server answers")
    process = command(root, "tracking", "--optional", MLFLOW_TRACKING_URI=address)
    assert process.returncode == 0 and "no MLflow server answers" in process.stderr


def serve(root: Path, port: int) -> "subprocess.Popen[bytes]":
    import requests

    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root / 'server.db'}",
        "--artifacts-destination",
        str(root / "server"),
    ]
    server = subprocess.Popen(
        command, cwd=root, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        try:
            requests.get(f"http://127.0.0.1:{port}/health", timeout=1)
            return server
        except requests.RequestException:
            time.sleep(0.1)
    raise TimeoutError


def kill(server: "subprocess.Popen[bytes]") -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_a_server_lost_in_between_costs_seconds_and_the_store_catches_up(
    root: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(empty_store, root / "server.db")
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    server = serve(root, port)
    try:
        tracking.prepare(root, "smoke")
        tracker = Tracker(root, TAGS | {"stage": "compress"}, {"sparsity": 0.95})
        tracker.metrics({"loss": LOSSES[0]}, 0)
        assert not caplog.records
        kill(server)
        start = time.monotonic()
        tracker.metrics({"loss": LOSSES[1]}, 1)
        tracker.complete(write(root, "compress"))
        assert time.monotonic() - start < 15
        assert len(caplog.records) == 1 and "no MLflow server answers" in caplog.text
        server = serve(root, port)
        monkeypatch.setattr(mirror, "is_alive", lambda process: False)  # the stage's process has ended by then
        assert tracking.synchronise(root) == (1, 1, 1)
        runs = logged(root)
        assert not [run for run in runs if run.info.status == "RUNNING"]
        (stage,) = of_kind(runs, "stage")
        client = store.connect(root)
        assert len(client.get_metric_history(stage.info.run_id, "loss")) == len(LOSSES)
        assert "model.safetensors" in {file.path for file in client.list_artifacts(stage.info.run_id)}
    finally:
        kill(server)


# Live


def test_a_run_tracked_live_stays_and_is_completed(root: Path) -> None:
    tracking.prepare(root, "smoke")
    for stage in ("compress", "finetune"):
        tracker = Tracker(root, TAGS | {"stage": stage}, {"sparsity": 0.95})
        for epoch, loss in enumerate(LOSSES):
            tracker.metrics({"loss": loss}, epoch)
        assert {r.info.status for r in logged(root) if r.data.tags.get("stage", stage) == stage} == {"RUNNING"}
        tracker.complete(write(root, stage))
    live = {run.info.run_id for run in logged(root)}
    assert len(live) == 3
    write(root, "evaluate")
    assert tracking.synchronise(root) == (1, 3, 3)
    runs = logged(root)
    assert live < {run.info.run_id for run in runs} and len(runs) == 4
    (parent,) = of_kind(runs, "run")
    assert parent.info.status == "FINISHED" and parent.data.metrics["quality"] == 81.25
    drawn = store.connect(root).get_metric_history(parent.info.run_id, "loss")
    assert [(point.step, point.value) for point in drawn] == list(enumerate(LOSSES * 2))


def test_a_failed_stage_ends_as_failed(root: Path) -> None:
    tracking.prepare(root, "smoke")
    with pytest.raises(ZeroDivisionError), tracking.tracked(root, TAGS | {"stage": "compress"}, {}) as tracker:
        tracker.metrics({"loss": 1.0})
        raise ZeroDivisionError
    assert {run.info.status for run in logged(root)} == {"FAILED"}


KILLED = """
import os, signal, sys
from pathlib import Path
from compressbench.tracking.live import Tracker
Tracker(Path(), {tags!r}, {{}}).metrics({{"loss": 1.0}})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_running_is_ended_and_then_replaced(root: Path) -> None:
    tracking.prepare(root, "smoke")
    write(root, "pretrain")
    code = KILLED.format(tags=TAGS | {"stage": "compress"})
    subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, timeout=120)
    assert {run.info.status for run in logged(root)} == {"RUNNING"}
    assert tracking.synchronise(root) == (1, 1, 1)
    assert sorted(run.info.status for run in logged(root)) == ["FINISHED", "KILLED", "KILLED"]
    write(root, "compress")
    assert tracking.synchronise(root) == (1, 2, 2)
    assert len(of_kind(logged(root), "stage")) == 1
    assert not [run for run in logged(root) if run.info.status == "KILLED"]


def test_a_stage_that_is_being_written_is_left_alone(root: Path) -> None:
    tracking.prepare(root, "smoke")
    Tracker(root, TAGS | {"stage": "compress"}, {}).metrics({"loss": 1.0})
    tracking.synchronise(root)
    assert {run.info.status for run in logged(root)} == {"RUNNING"}
