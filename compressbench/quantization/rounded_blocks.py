"""Networks with 1xN blocks, quantized after training: removed blocks stay exactly 0, as the weights' grids are symmetric."""

import torch
from pydantic import Field
from torch import Tensor, nn

from compressbench.config import MethodConfig
from compressbench.layers.deployment import unmasked
from compressbench.layers.masked import masked_layers
from compressbench.layers.quantized import QuantConv2d, QuantLinear, mask_quantized_layer
from compressbench.layers.registry import replace_module
from compressbench.method import Context
from compressbench.models import Network
from compressbench.models.structure import AnyModule
from compressbench.quantization.post_training import (
    InputRange,
    PostTrainingConfig,
    calibration_ranges,
    check_network,
    observe,
    quantize_post_training,
)


class RoundedConfig(MethodConfig):
    """What methods that prune blocks add to their hyper-parameters, with `network_from` for a setting that gives it."""

    bits: int | None = Field(
        None,
        ge=2,
        le=8,
        exclude_if=lambda bits: bits is None,
        description="of the weights and inputs of all layers, quantized after training; default: fp32",
    )


def post_training_config(bits: int) -> PostTrainingConfig:
    """Weights symmetric per channel, activations asymmetric on the extremes of training images, every layer alike."""
    return PostTrainingConfig.model_validate({"weight_bits": bits, "activation_bits": bits, "first_last_bits": None})


def check_rounding(network: nn.Module, config: RoundedConfig) -> None:
    """UserError where a network that is to be rounded cannot be."""
    if config.bits is not None:
        check_network(network, post_training_config(config.bits))


def round_finished(ctx: Context, bits: int) -> Network:
    """The finished network of the setting without `bits`, quantized on training images."""
    model = ctx.finished()
    masks, config = take_masks(model), post_training_config(bits)
    return round_blocks(model, masks, calibration_ranges(model, ctx, config, "minmax"), config)


def round_on(model: AnyModule, images: Tensor, bits: int) -> AnyModule:
    """A masked network, quantized in place on the extremes of these images [N, C, H, W]."""
    masks, config = take_masks(model), post_training_config(bits)
    return round_blocks(model, masks, observe(model, [images], config, "minmax"), config)


Masks = dict[str, tuple[Tensor, int | None]]
"""By layer: the mask, and N where it is constant on blocks of N output channels."""


def take_masks(model: nn.Module) -> Masks:
    """Turn masked layers into plain ones with zeros, in place; returns their masks."""
    masks: Masks = {name: (layer.mask, layer.block) for name, layer in masked_layers(model).items()}
    unmasked(model)
    return masks


@torch.no_grad()
def round_blocks(
    model: AnyModule, masks: Masks, ranges: dict[str, InputRange], config: PostTrainingConfig
) -> AnyModule:
    """`quantize_post_training`, in place, of a network whose masks were taken; the layers get them back."""
    quantize_post_training(model, ranges, config, "minmax")
    for name, (mask, block) in masks.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantConv2d | QuantLinear), "every convolution and linear layer is quantized"
        replace_module(model, name, mask_quantized_layer(layer, mask, block))
    return model.eval()
