"""One process imports what every job needs and forks for each of them: the imports take longer than most jobs.

The Snakefile starts it for jobs on this machine, and for those of seconds that share one job of a cluster. `python -m
compressbench ...` hands over its arguments, environment, working directory and standard streams, and ends as the forked
process does. Where nothing listens, the command runs in its own process, with the same result. The server has one thread, has
read no data, and ends with the process that started it; so do its jobs.
"""

import atexit
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from compressbench import environment

VARIABLE = "COMPRESSBENCH_FORK_SERVER"
PATIENCE = 10  # seconds until the socket must be there
IMPORTS = (
    "compressbench.cli", "compressbench.stages.stages", "compressbench.timing.latency", "compressbench.tracking",
    "compressbench.runtimes.native", "torch._dynamo", "torch.onnx", "onnx", "mlflow",
)  # fmt: skip
# Against threads, which do not survive a fork: OpenBLAS's, and that of PyArrow's allocator (MLflow imports pandas).
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
_open: list[object] = []  # what has to stay open until this process ends


def start() -> dict[str, str]:
    """Start the server; the environment variable by which jobs find it, none where processes cannot be forked safely."""
    if sys.platform != "linux":
        return {}
    path = Path(tempfile.mkdtemp(prefix="compressbench")) / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "compressbench.fork_server", str(path)],
        stdin=subprocess.PIPE,  # closed with this process: the sign to end
        start_new_session=True,  # Ctrl-C is for the jobs
        env=os.environ | ONE_THREAD,
    )
    _open.append(server)
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return {VARIABLE: str(path)} if path.exists() else {}


def delegate() -> int | None:
    """The exit code of this process's command, run by the server; None where no server listens."""
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ[VARIABLE])
    except (KeyError, OSError):
        return None
    with connection:
        request = json.dumps({"command": sys.argv, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(16), b""))
    if not answer:
        print("error: the job's process was killed; see whether the machine ran out of memory.", file=sys.stderr)
        return 1
    return answer[0]


def preload() -> None:
    """Import what jobs import."""
    for name in IMPORTS:
        import_module(name)


def serve(path: Path) -> None:
    """Fork for every request until standard input ends."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(64)  # requests wait here while the imports run
        preload()
        environment.print_every_letter()
        gc.collect()
        gc.freeze()  # no job's garbage collector walks, and thereby copies, what all jobs share
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked processes
        ended, alive = os.pipe()  # `alive` is open in this process only: `ended` can be read once it has ended
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listening.close()  # or clients would wait for a server that has ended
                os.close(alive)
                _run(connection, ended)
            connection.close()
    shutil.rmtree(path.parent, ignore_errors=True)


def _run(connection: socket.socket, ended: int) -> NoReturn:
    """In a forked process: become the client's command, and end."""
    length, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as request:
        asked = json.loads(request.read(int.from_bytes(length, "big")))
    for own, given in enumerate(descriptors):
        os.dup2(given, own)
        os.close(given)
    os.setpgid(0, 0)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["command"]
    threading.Thread(target=_follow, args=(connection, ended), daemon=True).start()
    _open.append(connection)  # the client waits until it closes with this process
    code = _main()
    connection.sendall(bytes([code]))
    # As the interpreter ends, but for taking apart what was imported: that takes longer than most jobs.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _follow(connection: socket.socket, ended: int) -> None:
    """End with the client or the server, and thereby with Snakemake: whichever is killed, its end closes."""
    select.select([connection.fileno(), ended], [], [])
    os.killpg(0, signal.SIGTERM)


def _main() -> int:
    from compressbench.cli import main

    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
