"""Serves MLflow's pages and prints the address of the results, which is not MLflow's start page."""

import logging
import subprocess
import sys
import time
from pathlib import Path

from compressbench.errors import UserError
from compressbench.tracking import store
from compressbench.tracking.views import page

log = logging.getLogger(__name__)
START = 60  # seconds


def show(root: Path, scale: str, port: int) -> int:
    """Serve the project's store until interrupted and say where the results of a scale are; the server's exit code.

    With `MLFLOW_TRACKING_URI` at a server this only says so.
    """
    with store.guarded(root):
        experiment = store.experiment_of(root, store.connect(root), scale)
    address = store.uri(root)
    if address.startswith(("http://", "https://")):
        print(_line(address.rstrip("/"), experiment))
        return 0
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address, "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        _wait(server, f"http://127.0.0.1:{port}")
        print(_line(f"http://127.0.0.1:{port}", experiment), flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def _wait(server: "subprocess.Popen[bytes]", address: str) -> None:
    import requests

    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if requests.get(f"{address}/health", timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise UserError(f"MLflow's server did not start at {address}; see its messages above. Is the port taken (--port)?")


def _line(address: str, experiment: str) -> str:
    return f"\n  The results: {address}{page(experiment)}\n"
