"""One run of the whole smoke DAG, shared by the tests that look at its results."""

import subprocess
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


def snakemake(root: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    return run_module(root, "--cores", "2", *arguments, module="snakemake", **options)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Smoke:
    root = copy_tree(tmp_path_factory.mktemp("smoke"), data_root)
    start = time.monotonic()
    process = snakemake(root, "--config", "scale=smoke")
    return Smoke(root, time.monotonic() - start, process)
