"""The stages one by one. Each reads files, writes files, and is a pure function of (inputs, configuration, seed)."""

import functools
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressbench import data, environment, machine, models, quality, storage
from compressbench.data import AnySplit
from compressbench.errors import UserError
from compressbench.files import make_folder, read_json, write_json
from compressbench.finite import NotFinite
from compressbench.method import loading
from compressbench.method.context import Context
from compressbench.method.operating_points import Adaptive, Blockwise, ImageDependent
from compressbench.method.tasks import Beside
from compressbench.models import pretrained
from compressbench.plan import SYNTHETIC_FILE, Job, Plan, Run, provenance, resources
from compressbench.processes import VISIBLE_GPUS, alone_in, alone_on_gpus
from compressbench.seeding import make_deterministic
from compressbench.stages.launch import launch
from compressbench.stages.runner import Stage, running
from compressbench.training.distributed import processes, rank

KEPT = "kept.safetensors"
ACCURACY_IMAGES = 5000  # beside fidelity, on a CPU in minutes
MACS_BATCH = 100


def run_stage(root: Path, run: Run, stage: str) -> None:
    """Run one stage of one run; `pretrain` ignores the run's method and setting. Leaves its files in `run.folder(stage)`.

    A training for which the pair has several `processes` starts them and waits for them.
    """
    job = _prepared(root, run, stage)
    folder, count = root / job.folder, job.workload.processes
    make_folder(folder)
    with alone_in(folder) as waited, alone_on_gpus(*_gpus(job)):
        if waited and provenance.is_current(root, job):
            return  # the other process has done it
        if stage not in MEASURING:
            _keep_own_checkpoints(folder / "checkpoints", job.digest)
        if count > 1:
            launch(count, _device(job.device), _share_stage, root, run, stage)
        else:
            _perform(root, job)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _prepared(root: Path, run: Run, stage: str) -> Job:
    """The job, in a process that is ready for it."""
    plan = Plan(root, run.scale, None if stage == "pretrain" else [run.method], [run.seed])
    if run.pair not in plan.scale.pairs:
        raise UserError(f"{run.pair} is not a pair of config/{run.scale}.yaml; known: {', '.join(plan.scale.pairs)}.")
    make_deterministic(environment.threads())
    machine.keep_freed_memory()
    return plan.job(run, stage)


def _perform(root: Path, job: Job) -> None:
    with running(root, job, environment.threads()) as running_stage:
        WORK.get(job.stage, _method_stage)(root, job, running_stage)


def _share_stage(root: Path, run: Run, stage: str) -> None:
    """In one of the processes of a training: the first one does as if it were alone, and the others write what nobody reads."""
    job = _prepared(root, run, stage)
    if rank() == 0:
        _perform(root, job)
        return
    with tempfile.TemporaryDirectory() as folder:
        WORK.get(stage, _method_stage)(root, job, Stage(Path(folder), None))


def _keep_own_checkpoints(folder: Path, digest: str) -> None:
    """A killed training is resumed only if its configuration is still the same."""
    mark = folder / "configuration.json"
    if not mark.exists() or read_json(mark) != digest:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        write_json(mark, digest)


def _gpus(job: Job) -> tuple[int, list[str]]:
    """How many GPUs a stage computes on, and those that it may choose from; none where it is left to processors."""
    told = os.environ.get(VISIBLE_GPUS)
    if job.device == "cpu" or not torch.cuda.is_available():
        return 0, []
    return resources.of(job).gpus, told.split(",") if told else [str(i) for i in range(torch.cuda.device_count())]


def _device(name: str) -> torch.device:
    """As configured; the present GPU of a process of several."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is configured but this machine has no usable GPU; write device: auto or cpu.")
    return torch.device(name, torch.cuda.current_device()) if processes() > 1 and name == "cuda" else torch.device(name)


def _context(root: Path, job: Job, running_stage: Stage) -> Context:
    folders, device = {name: root / read.folder for name, read in job.inputs.items()}, _device(job.device)
    history = running_stage.history
    return Context(
        root=root,
        stage=job.stage,
        seed=job.run.seed,
        pair=job.workload,
        dataset=job.run.dataset,
        folder=running_stage.folder,
        device=device,
        image_folder=job.image_folder,
        workers=environment.loader_workers(machine.usable_cores() // processes() if device.type == "cuda" else 0),
        logger=history,
        throughput=history.throughput if history else None,
        checkpoints=root / job.folder / "checkpoints",
        dense_folder=folders.get("dense"),
        teacher_folder=folders.get("teacher"),
        finished_folder=folders.get("finished"),
        synthetic_file=folders["synthetic"] / SYNTHETIC_FILE if "synthetic" in folders else None,
    )


def context_of(root: Path, job: Job) -> Context:
    """What the stage of a finished job read, for those who look at its result."""
    return _context(root, job, Stage(root / job.folder, None))  # type: ignore[arg-type]  # nothing is logged


def _pretrain(root: Path, job: Job, running_stage: Stage) -> None:
    """The shared dense model: trained here, or somebody else's weights, with pretrained.json about where they came from."""
    ctx = _context(root, job, running_stage)
    network, weights = ctx.build(), job.workload.pretrained
    if weights is None:
        network = ctx.fit(network, ctx.recipes.pretrain)
    else:
        write_json(running_stage.folder / "pretrained.json", asdict(pretrained.load(network, weights, root)))
    storage.save_model(network.eval(), running_stage.folder)


def _method_stage(root: Path, job: Job, running_stage: Stage) -> None:
    """synthesize, compress or finetune: the method's own function. What has zeros leaves with fresh statistics."""
    ctx = _context(root, job, running_stage)
    assert job.configuration is not None, "a job of a method's stage has it"
    method = loading.method_class(root, job.run.method)(job.configuration)
    method.check_recipes(job.workload)
    if job.stage == "synthesize":
        from compressbench.data_free.synthesis import save_synthetic

        save_synthetic(method.synthesize(ctx), ctx)
    else:
        if job.stage == "compress":
            model = method.compress(ctx)
        else:
            model = method.finetune(ctx, storage.load_model(root / job.inputs["model"].folder).to(ctx.device))
        if job.recalibrated:
            _recalibrate(ctx, model)
        storage.save_model(model, running_stage.folder)
        _save_kept(running_stage.folder / KEPT, ctx.companions)
    write_json(running_stage.folder / "record.json", ctx.records)


def _save_kept(file: Path, tensors: dict[str, Tensor]) -> None:
    """What the stage kept beside its model, and nothing of an earlier run."""
    file.unlink(missing_ok=True)
    if tensors:
        storage.save_tensors(file, tensors)


def _recalibrate(ctx: Context, model: nn.Module) -> None:
    """Give all sparse networks the batch-norm statistics of their final weights. Records what that changes."""
    before, after = ctx.validate(model), ctx.validate(ctx.recalibrate(model))
    for when, found in (("before", before), ("after", after)):
        for name, value in found.items():
            ctx.record(f"{name}_{when}_recalibration", value)


def _evaluate(root: Path, job: Job, running_stage: Stage) -> None:
    from compressbench import accounting
    from compressbench.layers.packing import packed_tensors

    ctx = _context(root, job, running_stage)
    final, folder = root / job.inputs["model"].folder, running_stage.folder
    model = storage.load_model(final).to(ctx.device)
    kept = storage.load_tensors(final / KEPT) if (final / KEPT).exists() else {}
    beside = Beside(kept, folder, None if ctx.dense_folder is None else ctx.dense())
    metrics: dict[str, Any]
    labelled = _labelled(ctx, job)
    if isinstance(model, Adaptive):
        points = {
            point: {"label": label} | _measured(ctx, model.at(point), beside._replace(folder=folder / point), labelled)
            for point, label in model.operating_points.items()
        }
        metrics = {"points": points, "stored_bytes": accounting.stored_bytes(model)}
    else:
        metrics = _measured(ctx, model, beside, labelled)
    stored = packed_tensors(model.cpu())
    if stored.keys() != model.state_dict().keys():
        storage.save_tensors(folder / "packed.safetensors", stored)
    write_json(folder / "metrics.json", metrics)


def _labelled(ctx: Context, job: Job) -> AnySplit | None:
    """Test images for the accuracy beside fidelity, evenly over all of them; None where the labelled data set is not there."""
    for name in job.files:
        loaded: Any = data.load(name, ctx.root / "data", limit=1, preprocessing=ctx.preprocessing)
        found: AnySplit = loaded.test.take(slice(None, None, max(1, len(loaded.test) // ACCURACY_IMAGES)))
        return found
    return None


def _measured(ctx: Context, network: nn.Module, beside: Beside, labelled: AnySplit | None) -> dict[str, Any]:
    """Quality and costs of one network; where the arithmetic depends on the image, the mean over the test images."""
    from compressbench import accounting

    try:
        scores = ctx.task.evaluate(network, ctx.data, beside)
        if labelled is not None:
            scores |= {"top1": quality.top1(network, labelled)}
    except NotFinite as error:
        raise UserError(f"{beside.folder.relative_to(ctx.root)}: {error}") from error
    costs = accounting.account(network, ctx.task.image_shape(ctx.info, ctx.pair))
    if isinstance(network, ImageDependent):
        test = (images for images, _ in ctx.data.test.in_batches(MACS_BATCH))
        costs = accounting.with_mean_macs(costs, network.mean_macs(test))
    return {"quality": scores} | asdict(costs)


def _latency(root: Path, job: Job, running_stage: Stage) -> None:
    from compressbench.timing import latency, repetition  # noqa: F401  # imported once, before processes are forked

    assert job.latency is not None, "a job of the latency stage has it"
    timed = functools.partial(_timed, root, job, running_stage)
    write_json(running_stage.folder / "latency.json", repetition.repeated(timed, job.latency.processes))


def _timed(
    root: Path, job: Job, running_stage: Stage, process: int, wanted: Mapping[str, Collection[str]] | None
) -> dict[str, Any]:
    """What one process measures: everything, or the `wanted` runtimes of every operating point with one thread."""
    from compressbench.timing import latency

    assert job.latency is not None
    options, seed = job.latency, job.run.seed
    rounds = math.ceil(options.rounds / options.processes)
    torch.manual_seed(seed)
    dense = models.build(job.workload.architecture, **job.workload.arguments).eval()
    folder = root / job.inputs["model"].folder
    compressed = storage.load_model(folder)
    ctx = _context(root, job, running_stage)

    def test_images(batch: int) -> Tensor:
        images: Tensor = ctx.data.test.images_at(slice(latency.timed_images(batch)))
        return images

    def measure(network: nn.Module, point: str = "") -> dict[str, Any]:
        return latency.measure(
            dense,
            network,
            ctx.task.image_shape(ctx.info, ctx.pair),
            runtimes=[name for name in options.runtimes if wanted is None or name in wanted[point]],
            threads=None if wanted is None else (1,),
            rounds=rounds,
            warmup=options.warmup,
            seed=seed,
            images=test_images(1) if isinstance(network, ImageDependent) else None,
            process=process,
        )

    def add_throughput(results: dict[str, Any], networks: dict[str, nn.Module]) -> None:
        for batch in job.batches:
            timed = latency.throughput(
                {"dense": dense, **networks}, test_images(batch), batch, rounds, options.warmup, seed
            )
            for name, own in results.items():
                own.setdefault("throughput", []).append(timed[name])

    if isinstance(compressed, Adaptive):
        networks = {point: compressed.at(point) for point in compressed.operating_points}
        points = {point: measure(network, point) for point, network in networks.items()}
        add_throughput(points, networks)
        result: dict[str, Any] = {"points": points}
        if process == 0:
            result["switching"] = latency.switching(
                compressed, lambda: storage.load_model(folder), options.rounds, options.warmup, seed
            )
        if process == 0 and isinstance(compressed, Blockwise) and "torch_eager" in options.runtimes:
            alone = {point: latency.eager_milliseconds(own) for point, own in points.items()}
            result["blocks"] = latency.block_sums(compressed, alone, options.rounds, options.warmup)
        return result
    result = measure(compressed)
    add_throughput({"compressed": result}, {"compressed": compressed})
    return result


MEASURING = {"evaluate": _evaluate, "latency": _latency}
WORK = {"pretrain": _pretrain, **MEASURING}


def write_published_counts(root: Path, methods: list[str], file: Path) -> None:
    """Recompute the published counts of the methods: [{"method", "model", "setting", "metric", "value"}]."""
    recomputed = [
        {"method": name} | count._asdict()
        for name in methods
        for count in loading.method_class(root, name).published_counts()
    ]
    write_json(file, recomputed)
