"""Starts the processes of a stage that trains in several."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import SimpleQueue, get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import ProcessExitedException, start_processes

from compressbench import environment
from compressbench.errors import UserError

LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def launch(processes: int, device: torch.device, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` in so many new processes, which are torch's process group, and wait for them.

    Process i computes on GPU i where `device` is one. Function and arguments are pickled. When one process fails, the others
    are ended.

    Raises:
        UserError: that of a process; or when one was killed, or this machine has fewer GPUs.
    """
    if device.type == "cuda" and torch.cuda.device_count() < processes:
        raise UserError(
            f"processes is {processes}, and this machine has {torch.cuda.device_count()} GPUs that can be used; "
            "lower it in the pair."
        )
    sentences = get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        try:
            start_processes(
                _join,
                (processes, device.type, Path(folder), sentences, function, arguments),
                processes,
                start_method="spawn",
            )
        except Exception as error:
            if not sentences.empty():
                raise UserError(sentences.get()) from None
            if isinstance(error, ProcessExitedException):
                raise UserError(
                    f"one of the {processes} processes of this training was killed; see whether the machine ran out of memory."
                ) from error
            raise


def _join(
    rank: int,
    processes: int,
    device: str,
    folder: Path,
    sentences: "SimpleQueue[str]",
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """In a new process: become number `rank` of the group, and do the work."""
    threading.Thread(target=_follow, daemon=True).start()
    logging.basicConfig(
        level=environment.log_level() if rank == 0 else logging.ERROR, format="%(levelname)s %(name)s: %(message)s"
    )
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    if device == "cuda":
        torch.cuda.set_device(rank)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", init_method=meeting, rank=rank, world_size=processes
    )
    try:
        function(*arguments)
    except UserError as error:
        sentences.put(str(error))
        raise
    distributed.destroy_process_group()


def _follow() -> None:
    """End with the process that launched this one, however it ends: nobody else keeps two writers out of a folder."""
    parent = parent_process()
    assert parent is not None, "a launched process has a parent"
    parent.join()
    os._exit(1)
