"""Result files of one run."""

import json
from dataclasses import replace
from pathlib import Path

from compressbench.plan import Run
from compressbench.reporting.run_files import RunFiles

RUN = Run("desk", "digits", "resnet", "optg", "p90", 0)


OTHER = replace(RUN, seed=1)


ABSENT = [
    {"result": "metrics.json", "reason": "not there"},
    {"result": "latency.json", "reason": "not there"},
]


MEASUREMENT = {
    "runtime": "torch_eager", "threads": 1, "library": "torch 2", "isa": "AVX2", "rounds": 50,
    "dense_ms": {"median": 2.0, "minimum": 1.0}, "compressed_ms": {"median": 1.0, "minimum": 0.5},
    "speedup": {"median": 2.0, "low": 1.9, "high": 2.1},
}  # fmt: skip


POINTS = {"low": {"label": "low", "quality": {"top1": 80.0}}, "high": {"label": "high", "quality": {"top1": 90.0}}}


def write(root: Path, stage: str, name: str, content: object, run: Run = RUN) -> RunFiles:
    """A file of a run (JSON, or a text as it is), and all files that are there."""
    path = root / run.folder(stage).relative_to("results") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return RunFiles(root, run, run)


def write_all(root: Path, run: Run) -> None:
    """Every file that a reader reads."""
    metrics = {"quality": {"top1": 90.0}, "macs": 7}
    timed = {"measurements": [MEASUREMENT], "throughput": [MEASUREMENT | {"batch": 64, "images": 1000}], "skipped": []}
    write(root, "evaluate", "metrics.json", metrics, run)
    write(root, "latency", "latency.json", timed, run)
    write(root, "compress", "record.json", {"density": 0.1}, run)
    write(root, "finetune", "run.json", {"wall_seconds": 2.0}, run)
    write(root, "finetune", "history.csv", "epoch,loss,steps\n0,1.0,10\n", run)
