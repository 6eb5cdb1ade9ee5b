"""Which processes work in a project's folder, by file locks, which the kernel releases however a process ends."""

import fcntl
import logging
import os
import random
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compressbench.errors import UserError

log = logging.getLogger(__name__)

WORKFLOWS = Path(".snakemake", "compressbench", "workflows")  # a file per workflow that runs: HOST:PID, locked by it
SNAKEMAKE_LOCKS = Path(".snakemake", "locks")
PATIENCE = 4.0  # seconds at most until a process looks for free GPUs again
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
HOLDER = ".holder"  # in the folder of a stage that runs: who runs it, locked by it
HEARTBEAT = 10.0  # seconds between two signs of life of a holder
SILENCE = 180.0  # seconds after which a holder on another machine is taken for dead: NFS shows times a minute late
_open: list[int] = []  # what has to stay open until this process ends


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Keep all others out of `folder`; wait until whoever works there has ended, such as what its killed workflow left behind.

    A file lock says so on one machine and on most shared file systems. Some of these lock for each machine alone. The file
    therefore names its holder, who shows every few seconds that it lives: one on another machine is believed until it has
    been silent for a while.

    Yields:
        Whether somebody else was there before: what was to be done may have been done.
    """
    handle, waited = _claim(folder / HOLDER)
    os.ftruncate(handle, 0)
    os.pwrite(handle, _name().encode(), 0)
    ended = threading.Event()
    threading.Thread(target=_show_life, args=(handle, ended), daemon=True).start()
    try:
        yield waited
    finally:
        ended.set()
        (folder / HOLDER).unlink(missing_ok=True)
        os.close(handle)


def _claim(file: Path) -> tuple[int, bool]:
    """The open file, locked and nobody else's, and whether somebody else had it before."""
    waited = False
    while True:
        handle, is_new = _opened(file)
        if not _locked(handle):
            log.warning("%s works in %s; waiting until it has ended", _holder(handle), file.parent)
            waited = True
            fcntl.flock(handle, fcntl.LOCK_EX)
        if not (file.exists() and os.path.samestat(os.fstat(handle), file.stat())):  # its holder has ended
            os.close(handle)
        elif is_new or _machine(_holder(handle)) == socket.gethostname():  # the lock of a dead holder has ended with it
            return handle, waited
        else:
            log.warning("%s works in %s; waiting until it has ended or is silent", _holder(handle), file.parent)
            waited = True
            if _falls_silent(file, handle):
                return handle, waited
            os.close(handle)


def _opened(file: Path) -> tuple[int, bool]:
    """The file, opened to be written (NFS locks nothing else), and whether this process has made it."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o644), False


def _falls_silent(file: Path, handle: int) -> bool:
    """Watch a holder on another machine: True once it has shown no sign of life for long enough, False once it has ended."""
    seen, since = os.fstat(handle).st_mtime_ns, time.monotonic()
    while time.monotonic() - since < SILENCE:
        time.sleep(HEARTBEAT / 10)
        if not (file.exists() and os.path.samestat(os.fstat(handle), file.stat())):
            return False
        if (now := os.fstat(handle).st_mtime_ns) != seen:
            seen, since = now, time.monotonic()
    return True


def _show_life(handle: int, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        os.utime(handle)


def _name() -> str:
    """This process, for people: with the job of the cluster that it belongs to."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (f" (Slurm job {job})" if job else "")


def _machine(holder: str) -> str:
    return holder.rpartition(" on ")[2].split(" (")[0]


def _holder(handle: int) -> str:
    return os.pread(handle, 1000, 0).decode("utf-8", "replace") or "another process"


@contextmanager
def alone_on_gpus(count: int, names: Sequence[str]) -> Iterator[None]:
    """Take `count` of the GPUs that this process sees, none of them another's, and show it only these.

    Waits until so many are free, and gives them back at the end. Call before CUDA is initialised: it reads the variable once.

    Args:
        count: how many; 0 takes none.
        names: what CUDA_VISIBLE_DEVICES may name. Another job of Slurm may call another GPU by the same name.

    Raises:
        UserError: when there are fewer than `count`.
    """
    if count > len(names):
        raise UserError(
            f"{count} GPUs are asked for (processes of the pair), and this machine has {len(names)}; ask for fewer."
        )
    folder = Path(tempfile.gettempdir(), f"compressbench-gpus-{os.getuid()}-{os.environ.get('SLURM_JOB_ID', '')}")
    folder.mkdir(exist_ok=True)
    before = os.environ.get(VISIBLE_GPUS)
    taken: dict[str, int] = {}
    try:
        while len(taken := _free_gpus(folder, names, count)) < count:
            for handle in taken.values():  # or two processes would wait for each other
                os.close(handle)
            time.sleep(PATIENCE * random.random())
        if taken:
            os.environ[VISIBLE_GPUS] = ",".join(taken)
        yield
    finally:
        for handle in taken.values():
            os.close(handle)
        if before is not None:
            os.environ[VISIBLE_GPUS] = before
        else:
            os.environ.pop(VISIBLE_GPUS, None)


def _free_gpus(folder: Path, names: Sequence[str], count: int) -> dict[str, int]:
    """At most `count` GPUs that nobody has, with their locked files."""
    found: dict[str, int] = {}
    for name in names:
        if len(found) < count:
            handle = os.open(folder / name.replace("/", "_"), os.O_RDWR | os.O_CREAT, 0o644)
            if _locked(handle):
                found[name] = handle
            else:
                os.close(handle)
    return found


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
