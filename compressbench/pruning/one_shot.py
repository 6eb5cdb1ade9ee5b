"""Accuracy after one-shot pruning, before any training."""

import copy

from torch import nn

from compressbench.method import Context


def record_untrained_quality(ctx: Context, pruned: nn.Module) -> None:
    """Record the validation accuracy as pruned, and with batch-norm statistics recomputed on training batches.

    Right after pruning a network is near chance, so only the second number compares methods. Nothing where no images are held
    out.
    """
    if not (as_pruned := ctx.validate(pruned)):
        return
    for name, value in as_pruned.items():
        ctx.record(f"{name}_pruned", value)
    for name, value in ctx.validate(ctx.recalibrate(copy.deepcopy(pruned))).items():
        ctx.record(f"{name}_recalibrated", value)
