"""A GPU in minutes (`make gpu`): images per second of training ResNet-50, and every stage of every method once."""

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F

from compressbench import machine, models
from compressbench.config import Recipe
from compressbench.plan import Job, Plan
from compressbench.reporting.tables import write_table
from compressbench.reporting.text import markdown_table
from compressbench.seeding import make_deterministic
from compressbench.stages.stages import run_stage
from compressbench.tracking.gate import VARIABLE
from compressbench.tracking.results import THROUGHPUT, THROUGHPUT_FILE
from compressbench.training import fit, make_optimizer
from compressbench.training.forward import as_configured
from compressbench.training.throughput import Throughput

ROOT = Path(__file__).parents[2]
STEPS = 20  # of either epoch; the first one warms up
NOT_REACHED = "not reached"


class Form(NamedTuple):
    """How a network is trained; `settings` are those of a recipe."""

    name: str
    layout: torch.memory_format
    settings: dict[str, Any]


FORMS = (
    Form("fp32, contiguous", torch.contiguous_format, {}),
    Form("fp32", torch.channels_last, {}),
    Form("bf16", torch.channels_last, {"precision": "bf16"}),
    Form("bf16, compiled", torch.channels_last, {"precision": "bf16", "compile": True}),
)


def throughput(
    form: Form, device: torch.device, network: str = "resnet50", size: int = 224, batch: int = 256
) -> dict[str, Any]:
    """Images per second of the suite's loop on one batch of noise that is there already, and GB of GPU memory."""
    recipe = Recipe(epochs=2, batch_size=batch, lr=0.1, **form.settings)
    torch.manual_seed(0)
    model = models.build(network).to(device, memory_format=form.layout)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=form.layout)
    labels, rates = torch.randint(10, (batch,)).to(device), list[float]()
    if on_gpu := device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    training = partial(
        fit,
        model,
        lambda step: (images, labels),
        as_configured(recipe, lambda m, b: F.cross_entropy(m(b[0]), b[1]), device),
        [make_optimizer(recipe, model.parameters())],
        epochs=recipe.epochs,
        steps_per_epoch=STEPS,
        seed=0,
        hooks=[Throughput(rates.append)],
    )
    row = {"network": network, "batch": batch, "form": form.name, "result": ending(training)}
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else math.nan
    return row | {THROUGHPUT: rates[-1] if row["result"] == "ok" else math.nan, "memory_gb": memory}


def jobs(plan: Plan) -> Iterator[Job]:
    """Every job of a plan once, behind those whose results it reads."""
    seen: set[Path] = set()

    def before(job: Job) -> Iterator[Job]:
        if job.folder not in seen:
            seen.add(job.folder)
            for read in job.inputs.values():
                yield from before(read)
            yield job

    for run in plan.runs:
        for stage in plan.stages(run):
            yield from before(plan.job(run, stage))


def ending(action: Callable[[], object]) -> str:
    """How it ends: "ok", or the error in a line."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "ok"


def attempt(root: Path, job: Job) -> dict[str, Any]:
    """How a stage ends, after how many seconds, and the images per second of its last epoch where it has trained."""
    speeds, began = root / job.folder / THROUGHPUT_FILE, time.perf_counter()
    result = ending(lambda: run_stage(root, job.run, job.stage))
    seconds = time.perf_counter() - began
    rate = pd.read_csv(speeds)[THROUGHPUT].iloc[-1] if result == "ok" and speeds.exists() else math.nan
    return _row(job, result, seconds, rate)


def stages(root: Path, plan: Plan, limit: float) -> Iterator[pd.DataFrame]:
    """The table at the beginning and after every job: a row for each, also for those that `limit` seconds do not reach."""
    planned, end = list(jobs(plan)), time.monotonic() + limit
    rows = [_row(job, NOT_REACHED) for job in planned]
    yield pd.DataFrame(rows)
    for place, job in enumerate(planned):
        if time.monotonic() >= end:
            return
        rows[place] = attempt(root, job)
        yield pd.DataFrame(rows)


def _row(job: Job, result: str, seconds: float = math.nan, rate: float = math.nan) -> dict[str, Any]:
    own = {"stage": job.stage, "job": str(job.folder), "result": result, "seconds": seconds, THROUGHPUT: rate}
    return {"method": job.run.method if job.stage != "pretrain" else "", "pair": job.run.pair} | own


def write(out: Path, name: str, table: pd.DataFrame, heading: str) -> None:
    """The table as CSV and as a page."""
    texts = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)).replace("nan", "")
    write_table(out / "tables", name, table, f"## {heading}\n\n{markdown_table(texts)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "reports/gpu")
    parser.add_argument("--seconds", type=float, default=240, help="until no other stage begins")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "error: this machine has no usable GPU, so that there is nothing to see; results do not need one."
        )
    os.environ[VARIABLE] = "off"
    make_deterministic()
    device, gpu = torch.device("cuda"), torch.cuda.get_device_name()
    rates = pd.DataFrame([throughput(form, device) for form in FORMS])
    write(arguments.out, "gpu_throughput", rates, f"Training on images of 224 x 224 that are there already. {gpu}")
    for table in stages(ROOT, Plan(ROOT, "gpu"), arguments.seconds):
        write(arguments.out, "gpu_stages", table, f"Stages of the smoke scale. {gpu}, {machine.summary()}")
    counts = table["result"].map(lambda result: result if result in ("ok", NOT_REACHED) else "failed").value_counts()
    print(rates.to_string(), counts.to_string(), f"written: {arguments.out}/tables", sep="\n")


if __name__ == "__main__":
    main()
