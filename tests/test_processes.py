"""Who works in a folder: what a killed process has locked is free, what a living one has is not."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compressbench import processes
from compressbench.errors import UserError
from tests.conftest import ROOT


def started(code: str) -> subprocess.Popen[str]:
    """A Python process that has written its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"from pathlib import Path\nfrom compressbench import processes\n{code}"],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, encoding="utf-8", env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


def workflow(root: Path) -> subprocess.Popen[str]:
    return started(f"processes.register(Path({str(root)!r})); print('at work', flush=True); input()")


def snakemake_lock(root: Path) -> Path:
    lock = root / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("results/data.json\n", encoding="utf-8")
    return lock


def test_the_locks_of_a_killed_workflow_are_removed_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    process, lock = workflow(tmp_path), snakemake_lock(tmp_path)
    with pytest.raises(UserError, match=rf"another Snakemake works in .* \(process {process.pid} on "):
        processes.unlock(tmp_path)
    assert lock.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert processes.unlock(tmp_path) and not lock.exists()
    assert not processes.unlock(tmp_path), "there is nothing left to remove"


def test_a_process_that_has_the_number_of_a_killed_one_is_no_workflow(tmp_path: Path) -> None:
    process = workflow(tmp_path)
    assert [name.split(":")[1] for name in processes.workflows(tmp_path)] == [str(process.pid)]
    process.kill()
    process.wait()
    file = tmp_path / processes.WORKFLOWS / f"here:{os.getpid()}"
    file.touch()  # this process lives, and is none
    assert processes.workflows(tmp_path) == [] and not file.exists()


def test_a_workflow_that_starts_removes_what_a_killed_one_locked_and_leaves_a_living_one_alone(tmp_path: Path) -> None:
    lock = snakemake_lock(tmp_path)
    first = workflow(tmp_path)
    assert not lock.exists()
    lock = snakemake_lock(tmp_path)
    second = workflow(tmp_path)
    assert lock.exists() and len(processes.workflows(tmp_path)) == 2
    for process in (first, second):
        process.communicate("\n")
    assert processes.workflows(tmp_path) == []


def test_one_process_at_a_time_works_in_the_folder_of_a_stage(tmp_path: Path) -> None:
    code = f"with processes.alone_in(Path({str(tmp_path)!r})):\n    print('at work', flush=True)\n    input()"
    first = started(code)
    second = subprocess.Popen(
        [sys.executable, "-c", f"from pathlib import Path\nfrom compressbench import processes\n{code}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert second.stdout is not None and second.stderr is not None
    assert f"process {first.pid} on {socket.gethostname()} works in" in second.stderr.readline()
    os.set_blocking(second.stdout.fileno(), False)
    assert not second.stdout.readline(), "it waits"
    first.kill()
    first.wait()
    os.set_blocking(second.stdout.fileno(), True)
    start = time.monotonic()
    assert second.stdout.readline() == "at work\n" and time.monotonic() - start < 30
    second.communicate("\n")


def holder(folder: Path, machine: str) -> Path:
    """The file of a holder that this machine's locks say nothing of."""
    file = folder / processes.HOLDER
    file.write_text(f"process 7 on {machine} (Slurm job 42)", encoding="utf-8")
    return file


def test_a_holder_on_another_machine_is_waited_for_and_named(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(processes, "HEARTBEAT", 0.1)
    file, order = holder(tmp_path, "node1"), []

    def works_and_ends() -> None:
        for _ in range(5):
            time.sleep(0.1)
            os.utime(file)
        order.append("the other")
        file.unlink()

    other = threading.Thread(target=works_and_ends)
    other.start()
    with processes.alone_in(tmp_path) as waited:
        order.append("this one")
    other.join()
    assert waited and order == ["the other", "this one"]
    assert f"process 7 on node1 (Slurm job 42) works in {tmp_path}" in caplog.text
    assert not file.exists()


def test_a_holder_on_another_machine_that_is_silent_is_taken_for_dead(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "HEARTBEAT", 0.1)
    monkeypatch.setattr(processes, "SILENCE", 0.5)
    file = holder(tmp_path, "node1")
    start = time.monotonic()
    with processes.alone_in(tmp_path) as waited:
        assert waited and time.monotonic() - start > 0.5
        assert file.read_text(encoding="utf-8").startswith(f"process {os.getpid()} on {socket.gethostname()}")


def test_what_a_killed_process_of_this_machine_left_keeps_nobody_out(tmp_path: Path, monkeypatch) -> None:
    holder(tmp_path, socket.gethostname())
    start = time.monotonic()
    with processes.alone_in(tmp_path) as waited:
        assert not waited and time.monotonic() - start < 5


def test_a_holder_shows_that_it_lives_and_names_its_job(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "HEARTBEAT", 0.05)
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    with processes.alone_in(tmp_path):
        file = tmp_path / processes.HOLDER
        first = file.stat().st_mtime_ns
        time.sleep(0.5)
        assert file.stat().st_mtime_ns > first and file.read_text(encoding="utf-8").endswith("(Slurm job 43)")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv(processes.VISIBLE_GPUS, raising=False)
    monkeypatch.setattr(processes, "PATIENCE", 0.1)


@pytest.mark.usefixtures("own_temporary")
def test_a_gpu_belongs_to_one_process_at_a_time() -> None:
    def shown() -> str:
        return os.environ[processes.VISIBLE_GPUS]

    with processes.alone_on_gpus(1, ["2", "3"]):
        assert shown() == "2"
        with processes.alone_on_gpus(1, ["2", "3"]):
            assert shown() == "3"
        with processes.alone_on_gpus(0, ["2", "3"]):
            assert shown() == "2"
        assert shown() == "2"
    assert processes.VISIBLE_GPUS not in os.environ
    with processes.alone_on_gpus(2, ["2", "3"]):
        assert shown() == "2,3"


@pytest.mark.usefixtures("own_temporary")
def test_a_process_waits_for_gpus_and_gets_them_when_another_is_killed(tmp_path: Path) -> None:
    code = f"processes.tempfile.gettempdir = lambda: {str(tmp_path)!r}\n"
    other = started(
        code + "with processes.alone_on_gpus(1, ['0', '1']):\n    print('at work', flush=True)\n    input()"
    )
    killed: list[float] = []

    def kill() -> None:
        time.sleep(0.5)
        killed.append(time.monotonic())
        other.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with processes.alone_on_gpus(2, ["0", "1"]):
        assert killed and time.monotonic() >= killed[0]
    thread.join()
    other.wait()


def test_more_gpus_than_there_are_is_one_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"4 GPUs are asked for .*this machine has 1"),
        processes.alone_on_gpus(4, ["0"]),
    ):
        pass
