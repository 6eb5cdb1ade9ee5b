"""Tests of the question, asked once per workflow, whether its jobs track."""

from pathlib import Path

import pytest

from compressbench import tracking
from compressbench.tracking.gate import VARIABLE
from compressbench.tracking.live import Tracker
from tests.tracking.projects import TAGS
from tests.tracking.unusable import closed_port


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
