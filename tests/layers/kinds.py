"""A quantizer of every kind, at its usual settings."""

from collections.abc import Callable

import torch
from torch import nn

from compressbench.layers.binary import OneBitConv2d, SignConv2d
from compressbench.layers.bounds import BoundedActivation
from compressbench.layers.learned_steps import DorefaConv2d, LearnedStepActivation, LearnedStepConv2d, PactActivation
from compressbench.layers.observed import ObservedActivation
from compressbench.layers.quantized import QuantizedActivation, mask_quantized_layer, quantize_layer
from compressbench.layers.quantizers import make_grid
from compressbench.layers.ranged import RangedConv2d
from compressbench.quantization.post_training import Clipping, PostTrainingConfig, weight_range
from methods.recu.layer import RectifiedClampConv2d
from methods.siman.layer import MagnitudeConv2d

BITS = 4
Layer = Callable[[nn.Conv2d], nn.Module]


def rebuilt(cls: type, **config: object) -> Layer:
    return lambda layer: cls.rebuild(layer, config)


def post_training(clipping: Clipping, scheme: str, per_channel: bool = True) -> Layer:
    def build(layer: nn.Conv2d) -> nn.Module:
        config = PostTrainingConfig(weight_scheme=scheme, per_channel=per_channel)
        quantized = quantize_layer(layer, BITS, BITS, scheme, per_channel)
        grid = make_grid(*weight_range(layer.weight.detach(), BITS, config, clipping), BITS, scheme)
        quantized.weight_scale.copy_(grid.scale)
        quantized.weight_zero_point.copy_(grid.zero_point)
        return quantized

    return build


def masked(layer: nn.Conv2d) -> nn.Module:
    quantized = post_training("minmax", "symmetric")(layer)
    return mask_quantized_layer(quantized, torch.ones_like(quantized.weight, dtype=torch.bool), block=2)


def one_bit(layer: nn.Conv2d) -> nn.Module:
    stored = OneBitConv2d.rebuild(layer, {"scaled": True, "centred": False})
    stored.alpha.data.copy_(layer.weight.detach().abs().mean((1, 2, 3)))
    layer.weight.data = torch.where(layer.weight.data >= 0, 1.0, -1.0)
    return stored


WIDTHS = {"weight_bits": BITS, "input_bits": BITS}


# What keeps the value of a constant weight, up to rounding.
RANGED: dict[str, Layer] = {
    "span": lambda layer: quantize_layer(layer, BITS, BITS),
    "percentile": rebuilt(RangedConv2d, **WIDTHS, weight_range="percentile", percentile=99.0),
    "minmax": rebuilt(RangedConv2d, **WIDTHS, weight_range="minmax", percentile=99.0),
    "symmetric": rebuilt(RangedConv2d, **WIDTHS, weight_range="symmetric", percentile=99.0),
    "post-training minmax": post_training("minmax", "symmetric"),
    "post-training asymmetric": post_training("minmax", "asymmetric", per_channel=False),
    "post-training mse": post_training("mse", "asymmetric"),
    "post-training percentile": post_training("percentile", "symmetric"),
    "post-training masked": masked,
}


# What has a form of its own: a trained step, tanh, signs.
OTHER: dict[str, Layer] = {
    "lsq": rebuilt(LearnedStepConv2d, **WIDTHS),
    "dorefa": rebuilt(DorefaConv2d, **WIDTHS, rescale=False),
    "dorefa rescaled": rebuilt(DorefaConv2d, **WIDTHS, rescale=True),
    "bnn": rebuilt(SignConv2d, scaling="none"),
    "xnor": rebuilt(SignConv2d, scaling="mean"),
    "xnor printed": rebuilt(SignConv2d, scaling="mean", scale_gradient="printed"),
    "recu": rebuilt(RectifiedClampConv2d),
    "siman": rebuilt(MagnitudeConv2d),
    "one bit": one_bit,
}


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "dual bounds": lambda: BoundedActivation(BITS),
    "gated bounds": lambda: BoundedActivation(BITS, gate_channels=25),
    "symmetric bound": lambda: BoundedActivation(BITS, "symmetric"),
    "lsq": lambda: LearnedStepActivation(BITS),
    "pact": lambda: PactActivation(BITS),
    "pact from the largest": lambda: PactActivation(BITS, start_at=None),
    "observed symmetric": lambda: ObservedActivation(BITS, "symmetric"),
    "observed asymmetric": lambda: ObservedActivation(BITS, "asymmetric"),
    "tracked": lambda: QuantizedActivation(BITS),
    "tracked relu6": lambda: QuantizedActivation(BITS, "compounding", 6.0),
}
