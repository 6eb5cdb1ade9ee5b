"""Single stages of smoke runs in this process, with recipes of one's own."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import yaml

from compressbench.plan import Job, Plan, Run
from compressbench.stages.stages import run_stage

RESULTS = ("*.safetensors", "model.json", "history.csv", "record.json")


def set_recipes(root: Path, pair: str, budgets: tuple[str, ...], **changes: Any) -> None:
    """Change recipes of a pair of config/smoke.yaml, and its `processes`."""
    file = root / "config/smoke.yaml"
    scale = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "processes" in changes:
        scale["pairs"][pair]["processes"] = changes.pop("processes")
    for name in budgets:
        scale["pairs"][pair][name] = scale["pairs"][pair][name] | changes
    file.write_text(yaml.safe_dump(scale, sort_keys=False), encoding="utf-8")


def first_run(root: Path, method: str) -> Run:
    """Of a method at the smoke scale."""
    return Plan(root, "smoke", [method]).runs[0]


def job_of(root: Path, run: Run, stage: str) -> Job:
    """As planned now."""
    return Plan(root, "smoke", [run.method]).job(run, stage)


def prepare(root: Path, job: Job) -> None:
    """Run the stages whose results a stage reads, where they are not there."""
    for read in job.inputs.values():
        if not all((root / read.folder / name).exists() for name in read.results):
            prepare(root, read)
            run_stage(root, read.run, read.stage)


def results(root: Path, job: Job) -> dict[str, str]:
    """sha256 of every result file of a stage that two equal runs have in common."""
    files = [path for pattern in RESULTS for path in sorted((root / job.folder).glob(pattern))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def forget(root: Path, job: Job) -> None:
    """Remove the results of a stage."""
    shutil.rmtree(root / job.folder)
