"""run.json: the origin of a result, in enough detail to reproduce it."""

import json
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import compressbench
from compressbench import machine
from compressbench.plan import Job

FILE = "run.json"
PACKAGES = (
    "torch", "torchvision", "numpy", "safetensors", "pydantic", "mlflow", "dvc", "snakemake", "onnxruntime",
    "openvino",
)  # fmt: skip
VERSION_VARIABLE = "COMPRESSBENCH_CODE_VERSION"


def code_version(root: Path) -> str:
    """`git describe` of the project, with -dirty when files differ from the commit; the package version without git.

    The workflow asks once, when it starts, and passes the answer to its jobs in an environment variable: git takes 0.1 s.
    """
    if told := os.environ.get(VERSION_VARIABLE):
        return told
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout.strip()
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError):
        return compressbench.__version__


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a number."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}


def peak_memory_mb() -> float:
    """Peak resident memory of this process, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def record(root: Path, job: Job, *, threads: int, seconds: float) -> dict[str, Any]:
    """The content of run.json."""
    gpu = machine.accelerator()
    return {
        "run": job.tags,
        "configuration": job.parameters,
        "configuration_hash": job.digest,
        "inputs": {name: read.digest for name, read in job.inputs.items()},
        "seed": job.run.seed,
        "data_hash": job.data_hash,
        "code_version": code_version(root),
        "packages": package_versions(),
        "machine": machine.describe(),
        "threads": threads,
        "wall_seconds": round(seconds, 3),
        "peak_memory_mb": peak_memory_mb(),
    } | ({"accelerator": gpu} if gpu else {})


def is_current(root: Path, job: Job) -> bool:
    """Whether the result in the folder of `job` is there, and this job made it: not another configuration or other data."""
    folder = root / job.folder
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing, or neither JSON nor text
        return False
    made_by = content.get("configuration_hash") if isinstance(content, dict) else None
    return made_by == job.digest and all((folder / file).exists() for file in job.results)
