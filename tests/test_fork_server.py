"""Jobs in forked processes: the same streams, exit codes and files as in a process of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compressbench import fork_server
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every job has a process of its own")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    found = fork_server.start()
    assert found, "the server did not listen in time"
    yield os.environ | found
    process = fork_server._open.pop()
    assert isinstance(process, subprocess.Popen)
    process.communicate(timeout=60)  # closes its input
    assert process.returncode == 0 and not Path(found[fork_server.VARIABLE]).parent.exists()


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compressbench", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, timeout=120, **options)  # type: ignore[call-overload]


def test_a_command_has_the_same_output_and_exit_code_in_either_process(server: dict[str, str]) -> None:
    for arguments, code in ((["validate", "smoke"], 0), (["compress", "no/such/run"], 2), (["no-such-command"], 2)):
        alone, forked = run(*arguments), run(*arguments, env=server)
        assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)
        assert alone.returncode == code


def test_without_a_server_the_command_runs_in_its_own_process(tmp_path: Path) -> None:
    assert run("validate", "smoke", env=os.environ | {fork_server.VARIABLE: str(tmp_path / "nothing")}).returncode == 0


def test_the_forked_process_ends_with_its_client(server: dict[str, str], tmp_path: Path) -> None:
    for name in ("config", "methods", "data.dvc"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "config/smoke.yaml")  # nobody writes: who reads waits
    client = subprocess.Popen([sys.executable, "-m", "compressbench", "validate", "smoke"], cwd=tmp_path, env=server)
    wait_for(lambda: len(working_in(tmp_path)) == 2)
    client.kill()
    client.wait()
    wait_for(lambda: not working_in(tmp_path))


def test_the_forked_processes_end_with_the_server(tmp_path: Path) -> None:
    """The server ends with Snakemake, so that a killed Snakemake leaves no job behind."""
    make_waiting_project(tmp_path)
    found = fork_server.start()
    server = fork_server._open.pop()
    assert isinstance(server, subprocess.Popen) and server.stdin is not None
    command = [sys.executable, "-m", "compressbench", "validate", "smoke"]
    clients = [
        subprocess.Popen(command, cwd=tmp_path, env=os.environ | found, stderr=subprocess.DEVNULL) for _ in range(2)
    ]
    wait_for(lambda: len(working_in(tmp_path)) == 4)
    server.stdin.close()
    wait_for(lambda: not working_in(tmp_path))
    assert [client.wait() for client in clients] == [1, 1]
    server.wait()


def make_waiting_project(root: Path) -> None:
    """A project whose configuration is a pipe into which nobody writes: who reads it waits."""
    for folder in ("config", "methods"):
        (root / folder).mkdir()
    (root / "data.dvc").touch()
    os.mkfifo(root / "config/smoke.yaml")


def working_in(folder: Path) -> list[str]:
    """The processes with that working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [process.name] if os.readlink(process / "cwd") == str(folder) else []
        except OSError:
            continue  # it has ended, or is none of ours
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_server_has_one_thread() -> None:
    code = "from compressbench import fork_server; import os; fork_server.preload(); print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | fork_server.ONE_THREAD,
    )
    assert done.stdout.strip() == "1", done.stderr


def test_nothing_heavy_is_imported_by_a_client() -> None:
    code = "import sys, compressbench.fork_server; print([m for m in ('torch', 'mlflow', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
