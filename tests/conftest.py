"""Fixtures: one thread, the project's data, and temporary copies of the tree in which whole stages run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def process_as_before(one_thread: None) -> Iterator[None]:
    """A stage that runs within a test sets the determinism and the threads of its process: the next test has the former."""
    import torch

    deterministic: Any = torch.utils.deterministic  # a module whose attribute is a property, unknown to type checkers
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    filling, cudnn = deterministic.fill_uninitialized_memory, torch.backends.cudnn.deterministic
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.set_num_threads(threads)
    deterministic.fill_uninitialized_memory, torch.backends.cudnn.deterministic = filling, cudnn


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The project's folder with data/ fetched and checked, as `make reproduce` does it."""
    from compressbench.data import sources

    sources.prepare(ROOT)
    return ROOT


def copy_tree(target: Path, data_root: Path) -> Path:
    """A copy of the project's own files in `target`, with a link to data/."""
    keep = ("compressbench", "methods", "config", "workflow", "Snakefile", "data.dvc", ".dvc", ".dvcignore")
    ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp")
    for name in keep:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy2(source, target / name)
    (target / "data").symlink_to(data_root / "data")
    return target


@pytest.fixture
def project(tmp_path: Path, data_root: Path) -> Path:
    """A temporary copy of the project."""
    return copy_tree(tmp_path, data_root)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with a copy of the library alone, without kernels that take long to compile."""
    slow = ("block_int8.cpp", "block_sparse.cpp", "depthwise.cpp", "expanded.cpp", "packed_binary.cpp")
    ignored = shutil.ignore_patterns("__pycache__", "*.so", *slow)
    shutil.copytree(ROOT / "compressbench", tmp_path / "compressbench", ignore=ignored)
    shutil.copy2(ROOT / "setup.py", tmp_path)
    return tmp_path


def run_python(root: Path, *arguments: str) -> str:
    """What `python ...` prints in a folder whose packages win over the installed ones; it must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False,
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


Command = Callable[..., subprocess.CompletedProcess]


def run_module(
    root: Path, *arguments: str, module: str = "compressbench", python: Path | str = sys.executable, **options: object
) -> subprocess.CompletedProcess:
    """`python -m module ...` in a copy of the project; the copy's packages win over the installed ones."""
    environment = os.environ | {"PYTHONPATH": str(root)} | dict(options.pop("env", {}))  # type: ignore[call-overload]
    command = [str(python), "-m", module, *arguments]
    piped: dict[str, object] = {"capture_output": True, "encoding": "utf-8", "errors": "backslashreplace"}
    return subprocess.run(command, cwd=root, env=environment, timeout=900, **piped, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def cli() -> Iterator[Command]:
    """`run_module` of the command line in a process that is forked from one with all imports, of the library and the
    methods of this checkout: for projects with other configurations, not with other code.
    """
    from compressbench import fork_server

    found = fork_server.start()
    server = fork_server._open.pop() if found else None

    def run(root: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
        return run_module(root, *arguments, env={**found, **(env or {})})

    yield run
    if isinstance(server, subprocess.Popen):
        server.communicate(timeout=60)  # closes its input: the sign to end
