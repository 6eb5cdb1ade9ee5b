"""Killing a training job loses at most the epoch that was running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import run_module

pytestmark = pytest.mark.pipeline
COMMAND = ["pretrain", "smoke", "digits", "resnet8"]


def folder(root: Path, seed: int) -> Path:
    return root / f"results/smoke/digits/resnet8/pretrain/seed{seed}"


def test_a_killed_stage_resumes_and_ends_with_the_same_bits(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = run_module(project, *COMMAND, "1")
    assert whole.returncode == 0, whole.stderr[-2000:]
    reference = (folder(project, 1) / "model.safetensors").read_bytes()
    history = (folder(project, 1) / "history.csv").read_bytes()
    for file in folder(project, 1).iterdir():
        file.unlink()

    latest = folder(project, 1) / "checkpoints/training/latest.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "compressbench", *COMMAND, "1"], cwd=project, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(project)},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= json.loads(latest.read_text(encoding="utf-8"))["epochs_done"] < 3, (
        "the job was not killed in the middle"
    )
    assert not (folder(project, 1) / "run.json").exists()

    resumed = run_module(project, *COMMAND, "1")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert (folder(project, 1) / "model.safetensors").read_bytes() == reference
    assert (folder(project, 1) / "history.csv").read_bytes() == history
    assert not latest.exists()


def test_the_training_of_another_configuration_is_not_resumed(project: Path) -> None:
    left = folder(project, 1) / "checkpoints"
    (left / "training").mkdir(parents=True)
    (left / "training/latest.json").write_text('{"slot": "slot0", "epochs_done": 2}', encoding="utf-8")
    (left / "configuration.json").write_text('"an older one"', encoding="utf-8")
    done = run_module(project, *COMMAND, "1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((folder(project, 1) / "history.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3
    assert not left.exists()
