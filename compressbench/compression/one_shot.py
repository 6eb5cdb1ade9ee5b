"""What pruning in one shot is worth before any training."""

import copy
from typing import TYPE_CHECKING

from torch import nn

from compressbench.compression.batchnorm_statistics import recompute_statistics

if TYPE_CHECKING:
    from compressbench.stages.context import Context


def record_untrained_quality(ctx: "Context", pruned: nn.Module, calibration_batches: int = 100) -> None:
    """Record the validation accuracy as pruned, and with batch-norm statistics recomputed on training batches.

    Right after block or filter pruning a network is near chance, so only the second number compares methods.
    """
    for name, value in ctx.validate(pruned).items():
        ctx.record(f"{name}_pruned", value)
    batches = ctx.batches(ctx.recipes.finetune)
    images = (batches(step)[0].to(ctx.device) for step in range(calibration_batches))
    for name, value in ctx.validate(recompute_statistics(copy.deepcopy(pruned), images)).items():
        ctx.record(f"{name}_recalibrated", value)
