"""Tests of serving MLflow's pages: the address of the results, and a server that does not start."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from compressbench.errors import UserError
from compressbench.tracking import store, ui
from compressbench.tracking.views import page


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server that answers that it is healthy."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_with_a_server_of_ones_own_only_the_address_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000/")
    monkeypatch.setattr(store, "connect", lambda root: None)
    monkeypatch.setattr(store, "experiment_of", lambda root, client, scale: "7")
    monkeypatch.setattr(subprocess, "Popen", None)  # starting a server would fail
    assert ui.show(tmp_path, "smoke", 5000) == 0
    assert f"http://tracking.example:5000{page('7')}" in capsys.readouterr().out


def test_waiting_ends_when_the_server_answers(address: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ui._wait(process, address)
        assert process.poll() is None
        process.communicate(b"\n")


def test_a_server_that_ends_before_it_answers_is_an_error_that_names_the_port(address: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"]) as process:
        process.wait()
        with pytest.raises(UserError, match=rf"did not start at {address}.*--port"):
            ui._wait(process, address)
