"""A real context for super-resolution on made-up pictures, small enough for tests."""

from pathlib import Path

import torch

from compressbench import data, storage
from compressbench.config import Pair
from compressbench.data.super_resolution import SuperResolutionData, make_pair
from compressbench.method import Context

RECIPE = {
    "epochs": 3, "steps_per_epoch": 2, "batch_size": 3, "optimizer": "adam", "lr": 5e-4,
    "schedule": "halve", "halve_every": 1,
}  # fmt: skip
EDSR = {"blocks": 2, "channels": 4, "scale": 2, "mean_shift": False}


def pictures() -> SuperResolutionData:
    """Two smooth random pictures to train on and one to test on."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 8, 8, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic").clamp(0, 1) * 255
    pairs = [make_pair(f"picture{i}", image.byte(), 2) for i, image in enumerate(smooth)]
    pairs = [type(p)(p.name, p.low.float(), p.high.float()) for p in pairs]
    return SuperResolutionData(data.info("photographs"), 2, pairs[:2], pairs[2:])


def make_sr_context(folder: Path, stage: str, seed: int = 0, **recipe: object) -> Context:
    """A context of photographs/edsr_mini, with an (untrained) dense model in `folder`/dense."""
    chosen = RECIPE | recipe
    pair = Pair.model_validate(
        {
            "architecture": "edsr",
            "arguments": EDSR,
            "patch": 12,
            "scratch": chosen,
            "pretrain": chosen,
            "finetune": chosen,
        }
    )
    ctx = Context(
        root=folder, stage=stage, seed=seed, pair=pair, dataset="photographs", folder=folder / stage,
        device=torch.device("cpu"), dense_folder=folder / "dense",
    )  # fmt: skip
    ctx.__dict__["data"] = pictures()
    if not (folder / "dense" / "model.json").exists():
        storage.save_model(ctx.build(), folder / "dense")
    return ctx
