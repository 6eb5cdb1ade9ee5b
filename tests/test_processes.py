"""Who works in a folder: what a killed process has locked is free, what a living one has is not."""

import os
import signal
import subprocess
import sys
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
    assert "another process works in" in second.stderr.readline()
    os.set_blocking(second.stdout.fileno(), False)
    assert not second.stdout.readline(), "it waits"
    first.kill()
    first.wait()
    os.set_blocking(second.stdout.fileno(), True)
    start = time.monotonic()
    assert second.stdout.readline() == "at work\n" and time.monotonic() - start < 30
    second.communicate("\n")
