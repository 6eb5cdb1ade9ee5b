"""Random masks at initialisation: the control for every learned choice of weights."""

from pydantic import Field

from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.pruning.config import PruningConfig, record_densities
from compressbench.pruning.masks import Scope, apply_masks, prunable, random_masks


class Random(Method):
    """Positions sampled uniformly before training, fixed for the whole run."""

    class Config(PruningConfig):
        """Sparsity and scope."""

        scope: Scope = Field("layerwise", description="one permutation per layer, or one over all prunable layers")

    config: Config

    def compress(self, ctx: Context) -> Network:
        config, model = self.config, ctx.build()
        layers = prunable(model, config.keep_first, config.keep_last)
        shapes = {name: layer.weight.shape for name, layer in layers.items()}
        apply_masks(model, random_masks(shapes, config.sparsity, config.scope, ctx.generator("mask")))
        record_densities(ctx, model)
        return ctx.fit(model, ctx.recipes.scratch)
