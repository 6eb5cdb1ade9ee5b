"""Writes the result of a run as a file that runs without the suite."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressbench import storage
from compressbench.data.preprocessing import Preprocessing
from compressbench.data.super_resolution import centre_crop
from compressbench.errors import UserError
from compressbench.export.check import Difference, compare
from compressbench.export.formats import FORMATS, Format
from compressbench.export.portable import Portable, portable
from compressbench.files import write_bytes, write_json
from compressbench.method import Context
from compressbench.method.operating_points import Adaptive, ImageDependent
from compressbench.plan import Job, Plan, Run, provenance
from compressbench.stages.stages import context_of

IMAGES = 32
"""Test images on which the outputs are compared."""


def export_run(root: Path, run: Run, form: str, out: Path | None = None) -> Iterator[str]:
    """Write the compressed network of a run, one file per operating point, each with its pre-processing as JSON beside it.

    Args:
        form: a name in `FORMATS`.
        out: default: results/RUN/export/model.SUFFIX. An operating point is added to the name: model_POINT.SUFFIX.

    Yields:
        What was written, and how far its outputs are from those of the model on test images: a sentence per file.

    Raises:
        UserError: there is no such result, it has no graph, or the file computes something else.
    """
    plan = Plan(root, run.scale, [run.method], [run.seed])
    if run.pair not in plan.scale.pairs:
        raise UserError(f"{run.pair} is not a pair of config/{run.scale}.yaml; known: {', '.join(plan.scale.pairs)}.")
    job = plan.job(run, plan.final_stage(run))
    if not provenance.is_current(root, job):
        raise UserError(
            f"{job.folder} has no result, or one of another configuration; run it first: snakemake --cores all --config "
            f"scale={run.scale} 'methods=[{run.method}]'."
        )
    kind = FORMATS[form]
    path = out or root / run.folder("export") / f"model{kind.suffix}"
    ctx, model = context_of(root, job), storage.load_model(root / job.folder)
    if not isinstance(model, Adaptive):
        yield _export(ctx, model, kind, path, job)
        return
    for point in model.operating_points:
        network, place = model.at(point), path.with_name(f"{path.stem}_{point}{path.suffix}")
        if isinstance(network, ImageDependent):
            yield f"{place} is left out: the arithmetic of this operating point depends on the image and has no graph"
        else:
            yield _export(ctx, network, kind, place, job)


def sample_images(ctx: Context) -> Tensor:
    """Some test images [N, C, H, W] as the network reads them; for super-resolution the middle of each."""
    if ctx.info.task != "super_resolution":
        return ctx.data.test.images_at(slice(IMAGES)).contiguous()  # type: ignore[no-any-return]
    side = ctx.task.image_shape(ctx.info, ctx.pair)[-1]
    return torch.stack([centre_crop(pair.low.float(), side) for pair in ctx.data.test[:IMAGES]])


def preprocessing_of(ctx: Context) -> Preprocessing:
    """What test images go through: of files, what their split does to them; those in memory have the network's size."""
    info = ctx.info
    own: Preprocessing | None = getattr(ctx.data.test, "preprocessing", None)
    return own or Preprocessing(info.size, info.size, info.mean, info.std)


def _export(ctx: Context, model: nn.Module, kind: Format, path: Path, job: Job) -> str:
    preprocessing, images = preprocessing_of(ctx), sample_images(ctx)
    with torch.no_grad():
        expected = model(images)  # first, for a quantizer that reads its state once
    ready = portable(model, preprocessing)
    free = {0: "batch"} | ({2: "height", 3: "width"} if ctx.info.task == "super_resolution" else {})
    pixels = preprocessing.pixels(images)
    try:
        content = kind.write(ready.network, pixels, free)
    except UserError as error:
        raise UserError(f"{job.run.name} cannot be exported: {error}; try another format.") from error
    with torch.no_grad():
        difference = compare(kind.load(content)(pixels), expected, ready.exact)
    write_bytes(path, content)
    write_json(
        path.with_name(f"{path.name}.json"), _description(job, ctx.info.task, preprocessing, ready, difference, pixels)
    )
    return f"{path} ({ready.arithmetic}, {len(content):,} bytes): {difference}"


def _description(
    job: Job, task: str, preprocessing: Preprocessing, ready: Portable, difference: Difference, pixels: Tensor
) -> dict[str, Any]:
    """What somebody who runs the file has to know: `before` it images are resized and cropped, `inside` they are normalised."""
    raw, steps, inside = preprocessing.is_raw, asdict(preprocessing), ("mean", "std")
    return {
        "run": job.run.name,
        "configuration_hash": job.digest,
        "task": task,
        "arithmetic": ready.arithmetic,
        "input": {
            "type": "float32",
            "layout": "NCHW",
            "channels": "RGB" if pixels.shape[1] == 3 else "grey",
            "range": [0, 255 if raw else 1],
            "size": None if raw else preprocessing.size,
        },
        "before": {name: value for name, value in steps.items() if not raw and name not in inside},
        "inside": {} if raw else {name: steps[name] for name in inside},
        "checked": {"images": len(pixels), **difference._asdict()},
    }
