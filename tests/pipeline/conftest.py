"""One run of the whole smoke DAG, shared by the tests that look at its results."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import copy_tree, run_module


@dataclass
class Smoke:
    """A project in which the smoke DAG has run."""

    root: Path
    seconds: float
    process: subprocess.CompletedProcess


# Python's default encoding is really ASCII then: without the last two it turns to UTF-8 by itself.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def snakemake(root: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    return run_module(root, "--cores", "2", *arguments, module="snakemake", **options)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Smoke:
    """In a folder with a space and a letter that is not ASCII, with a Python in a folder with a space, where text is ASCII.

    PyTorch cannot be imported from a folder whose name the locale cannot spell.
    """
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "my project é").mkdir()
    (folder / "my python").symlink_to(sys.prefix)
    root = copy_tree(folder / "my project é", data_root)
    start = time.monotonic()
    process = snakemake(root, "--config", "scale=smoke", env=ASCII, python=folder / "my python/bin/python")
    return Smoke(root, time.monotonic() - start, process)
