"""Processes of one training: each knows which it is, and what ends one of them is a sentence of the stage."""

import os
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import distributed

from compressbench.errors import UserError
from compressbench.stages.launch import launch
from tests.test_fork_server import wait_for

CPU = torch.device("cpu")


def refuse(folder: Path, message: str) -> None:
    """In one of two processes: the second one refuses, and the first one waits for it."""
    (folder / f"{distributed.get_rank()} of {distributed.get_world_size()}").touch()
    if distributed.get_rank() == 1:
        raise UserError(message)
    distributed.barrier()


def die() -> None:
    """In one of two processes: as if the system had killed the second one."""
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def test_what_one_process_refuses_is_the_sentence_of_the_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no image is left\.$"):
        launch(2, CPU, refuse, tmp_path, "no image is left.")
    assert {file.name for file in tmp_path.iterdir()} == {"0 of 2", "1 of 2"}


def test_a_killed_process_ends_the_others_with_a_sentence() -> None:
    with pytest.raises(UserError, match="one of the 2 processes of this training was killed"):
        launch(2, CPU, die)


def wait(folder: Path) -> None:
    """For ever."""
    (folder / str(os.getpid())).touch()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    time.sleep(600)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the processes")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    parent = get_context("spawn").Process(target=launch, args=(2, CPU, wait, tmp_path))
    parent.start()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.kill()
    parent.join()
    wait_for(lambda: not any(Path("/proc", file.name).exists() for file in tmp_path.iterdir()))


def test_a_machine_with_too_few_gpus_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="processes is 4, and this machine has 1 GPUs that can be used"):
        launch(4, torch.device("cuda"), die)
