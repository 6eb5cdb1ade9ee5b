"""Tests of stages that are tracked while they train."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressbench import tracking
from compressbench.tracking import live, mirror, store
from compressbench.tracking.live import Tracker
from tests.tracking.projects import LOSSES, TAGS, free_port, logged, of_kind, write


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


def test_a_process_lives_until_it_ends_and_elsewhere_it_counts_as_alive() -> None:
    assert live.is_alive(live.this_process())
    host, number, started = live.this_process().rsplit(":", 2)
    assert not live.is_alive(f"{host}:{number}:{started}9")  # the number belongs to another process now
    assert live.is_alive(f"elsewhere.example:{number}:0")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert not live.is_alive(f"{host}:{ended.pid}:1")
