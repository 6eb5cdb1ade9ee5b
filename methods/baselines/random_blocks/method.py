"""Random blocks: the control for every block criterion. 1xN blocks sampled without replacement."""

from pydantic import Field
from torch import nn

from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.pruning.blocks import (
    Rows,
    block_statistics,
    check_network,
    prunable_layers,
    random_block_mask,
    record_connected,
    weights_of,
)
from compressbench.pruning.deployments import block_networks
from compressbench.pruning.masks import apply_masks
from compressbench.pruning.one_shot import record_untrained_quality
from compressbench.quantization.deployments import rounded_block_networks
from compressbench.quantization.rounded_blocks import RoundedConfig, check_rounding, round_finished


class RandomBlocks(Method):
    """Remove exactly floor(p B) random blocks of each layer in one shot, fine-tune with fixed masks."""

    class Config(RoundedConfig):
        """The pattern."""

        n: int = Field(4, ge=1, description="output kernels per block")
        sparsity: float = Field(0.5, ge=0, le=1, description="fraction of the blocks of every prunable layer removed")
        rows: Rows = Field("ranked", description="uniform: equally many blocks in every output group")

    config: Config

    def check(self, network: nn.Module) -> None:
        check_network(network, prunable_layers(network), self.config.n)
        check_rounding(network, self.config)

    def compress(self, ctx: Context) -> Network:
        if self.config.bits:
            return round_finished(ctx, self.config.bits)
        config, model = self.config, ctx.dense()
        weights = weights_of(model, prunable_layers(model))
        generator = ctx.generator("blocks")
        masks = {
            name: random_block_mask(weight, config.n, config.sparsity, generator, config.rows, name)
            for name, weight in weights.items()
        }
        for name, value in block_statistics([(weights[name], mask) for name, mask in masks.items()], config.n).items():
            ctx.record(name, value)
        record_connected(ctx, model, masks)
        apply_masks(model, masks, block=config.n)
        record_untrained_quality(ctx, model)
        return model

    def finetune(self, ctx: Context, model: Network) -> Network:
        return ctx.fit(model, ctx.recipes.finetune)

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return block_networks("ranked") + rounded_block_networks("ranked")
