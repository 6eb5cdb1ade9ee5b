"""What a job asks a scheduler for: memory, GPUs, threads and minutes, estimated from its data set, network and recipe.

Estimates, not measurements: time is what multiply-accumulates take at a rate that a slow machine reaches, with a margin. A job
that runs out of either is started again with more and resumes from its checkpoints, so that nothing depends on them.
"""

import json
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any

from compressbench.config import Recipe
from compressbench.errors import UserError
from compressbench.plan.job import Job

if TYPE_CHECKING:
    from torch import nn

    from compressbench.data import DatasetInfo

LONGEST = 2880  # minutes: few partitions run anything longer, and a training that needs more is resumed
SHORTEST = 5  # minutes: a slow disk under the imports must not end a job
QUICK = 120  # seconds: a job below it takes hardly more time than a cluster needs to start it
LOADERS = 8  # threads that read images for a GPU, where they are read from files
MARGIN = 4  # methods that train several networks, or with costly hooks, beside one plain training
START = 10  # seconds until a stage computes
STEP = 0.02  # seconds of a training step beside its arithmetic
RATE = {"cpu": 5e9, "cuda": 3e12}  # multiply-accumulates per second of a thread and of a GPU
PROCESS = {"cpu": 2000, "cuda": 5000}  # MB of all that imports: the stage, and Snakemake twice in a cluster's job
EVALUATION_BATCH = 100  # images
LOOKED_AT = 2000  # images that a stage which trains nothing runs all the same: its validation, or a calibration
POSITIONS = (
    100  # how often each weight is used, and how many activations come from an input, where that cannot be counted
)
MB = 2**20


@dataclass(frozen=True)
class Resources:
    """What a job asks for.

    Attributes:
        memory_mb: main memory, in MB.
        gpus: 0 where the job computes on processors alone.
        threads: to compute with; more than one where images are read from files for a GPU.
        minutes: until it may be stopped.
        is_quick: whether it takes hardly more time than a cluster needs to start it, and no GPU.
    """

    memory_mb: int
    gpus: int
    threads: int
    minutes: int
    is_quick: bool


@dataclass(frozen=True)
class Costs:
    """What one image costs in a network: parameters, multiply-accumulates, elements of all and of the largest activations."""

    params: int
    macs: int
    activations: int
    largest: int


def of(job: Job, attempt: int = 1) -> Resources:
    """The resources of a job at its first, second, ... attempt; a job that only reads, cuts or times gets no GPU."""
    about, costs = _about(job), _costs(job)
    recipe = _recipe(job)
    processes = job.workload.processes if recipe else 1
    gpus = 0 if job.device == "cpu" else processes
    on = "cuda" if gpus else "cpu"
    images = job.workload.images or about.images
    if recipe:
        seconds = START + MARGIN * _training_seconds(recipe, images, costs, RATE[on])
    else:
        seconds = START + MARGIN * _measured_images(job, images) * costs.macs / RATE[on]
    held = 0 if gpus else _activations(job, recipe, costs)
    streamed = about.memory_mb is None
    read = (recipe.batch_size if recipe else EVALUATION_BATCH) * 8 * 4 * _product(about.image_shape) // MB
    memory = PROCESS[on] + (read if streamed else about.memory_mb or 0) + (8 * 4 * costs.params + held) // MB
    return Resources(
        memory_mb=100 * ceil(attempt * memory / 100),
        gpus=gpus,
        threads=processes * (LOADERS if gpus and streamed else 1),
        minutes=max(SHORTEST, min(LONGEST, attempt * ceil(seconds / 60))),
        is_quick=gpus == 0 and seconds <= QUICK,
    )


def gpus_here() -> int:
    """How many GPUs this process may use."""
    import torch

    return torch.cuda.device_count()


def _recipe(job: Job) -> Recipe | None:
    """What the stage trains at most; None where it trains nothing."""
    workload = job.workload
    if job.instant or job.stage in ("evaluate", "latency") or "finished" in job.inputs:
        return None
    if job.stage == "pretrain":
        return workload.pretrain
    return workload.finetune if "dense" in job.inputs else workload.scratch


def _training_seconds(recipe: Recipe, images: int, costs: Costs, rate: float) -> float:
    steps = recipe.epochs * (recipe.steps_per_epoch or ceil(images / recipe.batch_size))
    forward_and_backward = 3 * costs.macs * recipe.batch_size
    return steps * (STEP + forward_and_backward / rate)


def _measured_images(job: Job, images: int) -> int:
    """How many images run through a network in a stage that trains nothing."""
    if job.latency is not None:
        return 2 * job.latency.rounds * (len(job.latency.runtimes) + sum(job.batches))
    if job.stage == "pretrain":  # somebody else's weights
        return 0
    return images if job.stage == "evaluate" else min(LOOKED_AT, images)


def _activations(job: Job, recipe: Recipe | None, costs: Costs) -> int:
    """Bytes of the activations that are alive at once: all of a training step with their gradients, few of a forward pass."""
    if recipe:
        return 2 * 4 * recipe.batch_size * costs.activations
    return 4 * 4 * costs.largest * (EVALUATION_BATCH if job.stage == "evaluate" else 1)


def _product(shape: tuple[int, ...]) -> int:
    channels, height, width = shape
    return channels * height * width


def _about(job: Job) -> "DatasetInfo":
    from compressbench import data

    return data.find(job.workload.data or job.run.dataset, own=job.image_folder).info


def _costs(job: Job) -> Costs:
    from compressbench.method.tasks import TASKS

    about, workload = _about(job), job.workload
    shape = TASKS[about.task].image_shape(about, workload)
    return _counted(workload.architecture, json.dumps(workload.arguments), shape)


@cache
def _counted(architecture: str, arguments: str, shape: tuple[int, int, int]) -> Costs:
    from compressbench import accounting

    model = _network(architecture, arguments)
    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        rows = accounting.layer_table(model, shape)
    except (UserError, RuntimeError):  # one's own network need not run without numbers
        return Costs(params, POSITIONS * params, POSITIONS * _product(shape), _product(shape))
    written = [row.outputs for row in rows] or [_product(shape)]
    return Costs(params, sum(row.dense_macs for row in rows), sum(written), max(written))


def network(architecture: str, arguments: dict[str, Any]) -> "nn.Module":
    """A network without numbers, on the meta device, built once. UserError where it cannot be built."""
    return _network(architecture, json.dumps(arguments))


@cache
def _network(architecture: str, arguments: str) -> "nn.Module":
    import torch
    from torch.overrides import TorchFunctionMode

    from compressbench import models

    class Undrawn(TorchFunctionMode):
        """Leaves out what draws initial numbers: to draw none takes PyTorch two seconds of imports."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in (torch.Tensor.normal_, torch.Tensor.uniform_):
                return args[0]
            return function(*args, **(kwargs or {}))

    with torch.device("meta"), Undrawn():
        return models.build(architecture, **json.loads(arguments))
