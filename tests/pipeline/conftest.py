"""One run of the whole smoke DAG, shared by the tests that look at its results."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import copy_tree, run_module
from tests.pipeline.dropped_in import drop_in, drop_in_the_readmes


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


@pytest.fixture(scope="session")
def dropped_in(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A project with two more methods, a folder each, in which these and the dense networks have run."""
    root = copy_tree(tmp_path_factory.mktemp("dropped_in"), data_root)
    drop_in(root, "toy", ["half"])
    drop_in_the_readmes(root)
    process = snakemake(root, "--config", "scale=smoke", "methods=[toy,mine,dense]")
    assert process.returncode == 0, process.stderr[-3000:]
    return root
