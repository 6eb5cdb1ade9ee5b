"""The stages one by one. Each reads files, writes files, and is a pure function of (inputs, configuration, seed)."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressbench import models, registry, storage
from compressbench.config import Scale
from compressbench.errors import UserError
from compressbench.files import make_folder, read_json, write_json
from compressbench.kernels import machine
from compressbench.operating_points import Adaptive, Blockwise, ImageDependent
from compressbench.plan import Plan, Run
from compressbench.seeding import make_deterministic
from compressbench.stages.context import Context
from compressbench.stages.runner import Stage, running

KEPT = "kept.safetensors"


def run_stage(root: Path, run: Run, stage: str) -> None:
    """Run one stage of one run; `pretrain` ignores the run's method and setting. Leaves its files in `run.folder(stage)`."""
    methods = None if stage == "pretrain" else [run.method]
    plan = Plan(root, run.scale, methods, [run.seed])
    if run.pair not in plan.scale.pairs:
        raise UserError(f"{run.pair} is not a pair of config/{run.scale}.yaml; known: {', '.join(plan.scale.pairs)}.")
    threads = int(os.environ.get("COMPRESSBENCH_THREADS", "1"))
    make_deterministic(threads)
    machine.keep_freed_memory()
    folder = root / run.folder(stage)
    make_folder(folder)
    measuring = {"evaluate": _evaluate, "latency": _latency}
    work = {"pretrain": _pretrain, **measuring}.get(stage, _method_stage)
    shared = stage == "pretrain"
    tags = {
        "scale": run.scale, "dataset": run.dataset, "model": run.model,
        "method": "pretrain" if shared else run.method, "setting": "dense" if shared else run.setting,
        "seed": str(run.seed), "stage": stage,
    }  # fmt: skip
    configuration, digest = _configuration(plan, run, stage), plan.digest(run, stage)
    if stage not in measuring:
        _keep_own_checkpoints(folder / "checkpoints", digest)
    with running(
        root,
        folder=folder,
        tags=tags,
        configuration=configuration,
        digest=digest,
        seed=run.seed,
        threads=threads,
    ) as running_stage:
        work(plan, run, stage, running_stage)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _keep_own_checkpoints(folder: Path, digest: str) -> None:
    """A killed training is resumed only if its configuration is still the same."""
    mark = folder / "configuration.json"
    if not mark.exists() or read_json(mark) != digest:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        write_json(mark, digest)


def _configuration(plan: Plan, run: Run, stage: str) -> dict[str, Any]:
    pair = plan.pair(run).model_dump(mode="json", exclude_none=True)
    if stage in ("pretrain", "evaluate"):
        return {"pair": pair}
    if stage == "latency":
        return {"pair": pair, "latency": plan.scale.latency.model_dump(mode="json")}
    return {"pair": pair} | registry.resolve(plan.root, run.method, run.setting, run.scale).model_dump(mode="json")


def _device(scale: Scale) -> torch.device:
    name = ("cuda" if torch.cuda.is_available() else "cpu") if scale.device == "auto" else scale.device
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is configured but this machine has no usable GPU; write device: auto or cpu.")
    return torch.device(name)


def _context(plan: Plan, run: Run, stage: str, running_stage: Stage) -> Context:
    pretrained = stage == "pretrain"
    declared = None if pretrained else plan.declarations[run.method]
    synthetic = declared is not None and "synthesize" in declared.stages and stage != "synthesize"
    return Context(
        root=plan.root,
        stage=stage,
        seed=run.seed,
        pair=plan.pair(run),
        dataset=run.dataset,
        folder=running_stage.folder,
        device=_device(plan.scale),
        logger=running_stage.history,
        dense_folder=plan.root / run.folder("pretrain")
        if declared is not None and declared.starts_from == "dense"
        else None,
        teacher_folder=plan.root / plan.teacher(run).folder("pretrain")
        if declared is not None and declared.needs_teacher
        else None,
        synthetic_file=plan.root / plan.synthesis_run(run).folder("synthesize") / "synthetic.safetensors"
        if synthetic
        else None,
    )


def _pretrain(plan: Plan, run: Run, stage: str, running_stage: Stage) -> None:
    ctx = _context(plan, run, stage, running_stage)
    storage.save_model(ctx.fit(ctx.build(), ctx.recipes.pretrain), running_stage.folder)


def _method_stage(plan: Plan, run: Run, stage: str, running_stage: Stage) -> None:
    """synthesize, compress or finetune: the method's own function. What has zeros leaves with fresh statistics."""
    ctx = _context(plan, run, stage, running_stage)
    method = registry.method_class(plan.root, run.method)(
        registry.resolve(plan.root, run.method, run.setting, run.scale)
    )
    if stage == "synthesize":
        from compressbench.compression.synthesis import save_synthetic

        save_synthetic(method.synthesize(ctx), ctx)
    else:
        if stage == "compress":
            model = method.compress(ctx)
        else:
            model = method.finetune(ctx, storage.load_model(plan.root / run.folder("compress")).to(ctx.device))
        if plan.declarations[run.method].is_sparse and stage == plan.final_stage(run):
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
    """One footing for all sparse networks: batch-norm statistics of the final weights. Records what that changes."""
    before, after = ctx.validate(model), ctx.validate(ctx.recalibrate(model))
    for when, found in (("before", before), ("after", after)):
        for name, value in found.items():
            ctx.record(f"{name}_{when}_recalibration", value)


def _evaluate(plan: Plan, run: Run, stage: str, running_stage: Stage) -> None:
    from compressbench import accounting
    from compressbench.compression.packing import packed_tensors

    ctx = _context(plan, run, stage, running_stage)
    final, folder = plan.root / run.folder(plan.final_stage(run)), running_stage.folder
    model = storage.load_model(final).to(ctx.device)
    beside = storage.load_tensors(final / KEPT) if (final / KEPT).exists() else {}
    metrics: dict[str, Any]
    if isinstance(model, Adaptive):
        points = {
            point: {"label": label} | _measured(ctx, model.at(point), beside, folder / point)
            for point, label in model.operating_points.items()
        }
        metrics = {"points": points, "stored_bytes": accounting.stored_bytes(model)}
    else:
        metrics = _measured(ctx, model, beside, folder)
    stored = packed_tensors(model.cpu())
    if stored.keys() != model.state_dict().keys():
        storage.save_tensors(folder / "packed.safetensors", stored)
    write_json(folder / "metrics.json", metrics)


def _measured(ctx: Context, network: nn.Module, beside: dict[str, Tensor], folder: Path) -> dict[str, Any]:
    """Quality and costs of one network; where the arithmetic depends on the image, the mean over the test images."""
    from compressbench import accounting

    scores = ctx.task.evaluate(network, ctx.data, beside, folder)
    costs = accounting.account(network, ctx.task.image_shape(ctx.info, ctx.pair))
    if isinstance(network, ImageDependent):
        costs = accounting.with_mean_macs(costs, network.mean_macs(ctx.data.test.images))
    return {"quality": scores} | asdict(costs)


def _latency(plan: Plan, run: Run, stage: str, running_stage: Stage) -> None:
    from compressbench.kernels import latency

    pair, options = plan.pair(run), plan.scale.latency
    torch.manual_seed(run.seed)
    dense = models.build(pair.architecture, **pair.arguments).eval()
    folder = plan.root / run.folder(plan.final_stage(run))
    compressed = storage.load_model(folder)
    ctx = _context(plan, run, stage, running_stage)

    def measure(network: nn.Module) -> dict[str, Any]:
        return latency.measure(
            dense,
            network,
            ctx.task.image_shape(ctx.info, ctx.pair),
            executors=options.executors,
            rounds=options.rounds,
            warmup=options.warmup,
            seed=run.seed,
            images=ctx.data.test.images if isinstance(network, ImageDependent) else None,
        )

    def add_throughput(results: dict[str, Any], networks: dict[str, nn.Module]) -> None:
        for batch in plan.declarations[run.method].batches:
            timed = latency.throughput(
                {"dense": dense, **networks}, ctx.data.test.images, batch, options.rounds, options.warmup, run.seed
            )
            for name, own in results.items():
                own.setdefault("throughput", []).append(timed[name])

    if isinstance(compressed, Adaptive):
        networks = {point: compressed.at(point) for point in compressed.operating_points}
        points = {point: measure(network) for point, network in networks.items()}
        add_throughput(points, networks)
        result = {
            "points": points,
            "switching": latency.switching(
                compressed, lambda: storage.load_model(folder), options.rounds, options.warmup, run.seed
            ),
        }
        if isinstance(compressed, Blockwise) and "torch_eager" in options.executors:
            alone = {point: latency.eager_milliseconds(own) for point, own in points.items()}
            result["blocks"] = latency.block_sums(compressed, alone, options.rounds, options.warmup)
    else:
        result = measure(compressed)
        add_throughput({"compressed": result}, {"compressed": compressed})
    write_json(running_stage.folder / "latency.json", result)


def write_facts(root: Path, methods: list[str], file: Path) -> None:
    """Recompute the no-training facts of the methods: [{"method", "model", "setting", "metric", "value"}]."""
    facts = [
        {"method": name} | fact._asdict() for name in methods for fact in registry.method_class(root, name).facts()
    ]
    write_json(file, facts)
