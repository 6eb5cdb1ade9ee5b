"""One-shot magnitude pruning of a trained network, then fine-tuning with fixed masks."""

from torch import Tensor, nn

from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.pruning.config import PruningConfig, record_densities
from compressbench.pruning.deployments import sparse_networks
from compressbench.pruning.masks import apply_masks, prunable, ranked_masks
from compressbench.pruning.one_shot import record_untrained_quality


def magnitudes(model: nn.Module, keep_first: bool = False, keep_last: bool = False) -> dict[str, Tensor]:
    """|W| of the prunable layers, by name."""
    return {name: layer.weight.detach().abs() for name, layer in prunable(model, keep_first, keep_last).items()}


class Magnitude(Method):
    """Remove the weights of smallest magnitude, over the whole network or inside every layer."""

    Config = PruningConfig
    config: PruningConfig

    def compress(self, ctx: Context) -> Network:
        config, model = self.config, ctx.dense()
        weights = magnitudes(model, config.keep_first, config.keep_last)
        apply_masks(model, ranked_masks(weights, config.sparsity, config.scope))
        record_densities(ctx, model)
        record_untrained_quality(ctx, model)
        return model

    def finetune(self, ctx: Context, model: Network) -> Network:
        return ctx.fit(model, ctx.recipes.finetune)

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return sparse_networks()
