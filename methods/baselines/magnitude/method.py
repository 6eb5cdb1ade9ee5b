"""One-shot magnitude pruning of a trained network, then fine-tuning with fixed masks."""

import copy
from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor, nn

from compressbench.compression.batchnorm_statistics import recompute_statistics
from compressbench.compression.masks import apply_masks, prunable, ranked_masks
from compressbench.compression.pruning import PruningConfig, record_densities
from compressbench.method import Method

if TYPE_CHECKING:
    from compressbench.stages.context import Context


def magnitudes(model: nn.Module, keep_first: bool = False, keep_last: bool = False) -> dict[str, Tensor]:
    """|W| of the prunable layers, by name."""
    return {name: layer.weight.detach().abs() for name, layer in prunable(model, keep_first, keep_last).items()}


class Magnitude(Method):
    """Remove the weights of smallest magnitude, over the whole network or inside every layer."""

    class Config(PruningConfig):
        """How much, and what is measured before fine-tuning."""

        calibration_batches: int = Field(100, ge=1, description="training batches that recompute batch-norm statistics")

    config: Config

    def compress(self, ctx: "Context") -> nn.Module:
        config, model = self.config, ctx.dense()
        weights = magnitudes(model, config.keep_first, config.keep_last)
        apply_masks(model, ranked_masks(weights, config.sparsity, config.scope))
        record_densities(ctx, model)
        self._record_untrained_quality(ctx, model)
        return model

    def _record_untrained_quality(self, ctx: "Context", pruned: nn.Module) -> None:
        """Validation accuracy without any training: as pruned, and with recomputed batch-norm statistics."""
        for name, value in ctx.validate(pruned).items():
            ctx.record(f"{name}_pruned", value)
        batches = ctx.batches(ctx.recipes.finetune)
        images = (batches(step)[0].to(ctx.device) for step in range(self.config.calibration_batches))
        for name, value in ctx.validate(recompute_statistics(copy.deepcopy(pruned), images)).items():
            ctx.record(f"{name}_recalibrated", value)

    def finetune(self, ctx: "Context", model: nn.Module) -> nn.Module:
        return ctx.fit(model, ctx.recipes.finetune)
