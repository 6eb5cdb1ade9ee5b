"""Environment variables of the user, and the folder where the command was started. UserError if they cannot be used."""

import io
import logging
import os
import sys
from pathlib import Path

from compressbench.errors import UserError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
OF_A_PROJECT = ("config", "methods", "data.dvc")


def log_level() -> int:
    """COMPRESSBENCH_LOG as a level of `logging`, in letters of either case; INFO where it is not set."""
    name = os.environ.get("COMPRESSBENCH_LOG", "INFO")
    if name.upper() not in LEVELS:
        raise UserError(f"COMPRESSBENCH_LOG is {name!r}, which is no level; set it to one of {', '.join(LEVELS)}.")
    return int(getattr(logging, name.upper()))


def threads() -> int:
    """COMPRESSBENCH_THREADS, the threads that a stage computes with; 1 where it is not set."""
    text = os.environ.get("COMPRESSBENCH_THREADS", "1")
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1024):
        raise UserError(f"COMPRESSBENCH_THREADS is {text!r}; set it to a whole number from 1 to 1024, or unset it.")
    return int(text)


def loader_workers(cores: int) -> int:
    """COMPRESSBENCH_LOADER_WORKERS, the processes that read image files; where it is not set, as many as cores, at most 8.

    cores: those of each process that trains.
    """
    text = os.environ.get("COMPRESSBENCH_LOADER_WORKERS", str(min(cores, 8)))
    if not (text.isascii() and text.isdecimal() and int(text) <= 256):
        raise UserError(
            f"COMPRESSBENCH_LOADER_WORKERS is {text!r}; set it to a whole number from 0 to 256, or unset it."
        )
    return int(text)


def print_every_letter() -> None:
    """A terminal or pipe that cannot show a letter gets its code instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        # A forked job has the server's, which is set already and, with another file behind it, cannot be set anew.
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")


def require_project(root: Path) -> None:
    """Before anything is written or fetched: `root` is a project's folder."""
    if missing := [name for name in OF_A_PROJECT if not (root / name).exists()]:
        raise UserError(
            f"{root.resolve()} is no compressbench project: it has no {' and no '.join(missing)}; "
            "change into the project's folder, or restore what is missing from version control."
        )
