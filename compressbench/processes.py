"""Which processes work in a project's folder, by file locks, which the kernel releases however a process ends."""

import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressbench.errors import UserError

log = logging.getLogger(__name__)

WORKFLOWS = Path(".snakemake", "compressbench", "workflows")  # a file per workflow that runs: HOST:PID, locked by it
SNAKEMAKE_LOCKS = Path(".snakemake", "locks")
_open: list[int] = []  # what has to stay open until this process ends


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process, such as a job that its killed workflow left behind, works in `folder`; keep others out."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _locked(handle):
            log.warning("another process works in %s; waiting until it has ended", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def register(root: Path) -> None:
    """Let this process count as a workflow at work in `root` for as long as it lives. Call before Snakemake locks anything.

    Where no other workflow is at work, this removes what a killed one has locked.
    """
    if not workflows(root):
        unlock(root)
    file = root / WORKFLOWS / f"{socket.gethostname()}:{os.getpid()}"
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT)
        _open.append(handle)
        if _locked(handle) and file.exists() and os.path.samestat(os.fstat(handle), file.stat()):
            return  # else another process took the file, not locked yet, for one of a workflow that has ended


def workflows(root: Path) -> list[str]:
    """The workflows at work in `root`, as HOST:PID. Removes the files of those that have ended."""
    alive = []
    for file in sorted((root / WORKFLOWS).glob("*:*")):
        handle = os.open(file, os.O_RDWR)
        if _locked(handle):
            file.unlink(missing_ok=True)
        else:
            alive.append(file.name)
        os.close(handle)
    return alive


def unlock(root: Path) -> bool:
    """Remove the locks that a killed Snakemake left in `root`; says whether there were any.

    Raises:
        UserError: when a workflow is at work there.
    """
    if alive := workflows(root):
        host, process = alive[0].split(":")
        raise UserError(
            f"another Snakemake works in {root.resolve()} (process {process} on {host}); wait until it has ended, or stop it."
        )
    found = any((root / SNAKEMAKE_LOCKS).glob("*.lock"))
    shutil.rmtree(root / SNAKEMAKE_LOCKS, ignore_errors=True)
    return found


def _locked(handle: int) -> bool:
    """Lock an open file; False where another process has it locked. File systems without locks let everybody in."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("no file locks here (%s): see to it that no two runs work in one folder", error.strerror)
    return True
