"""The form of a model that a dense library runs: masks folded into weights, batch norms into convolutions."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.errors import UserError
from compressbench.layers.folding import convolution_norm_pairs, fold_norm
from compressbench.layers.masked import MaskedConv2d, MaskedLinear
from compressbench.layers.registry import CompressedLayer, replace_modules
from compressbench.layers.replaceable import CONVOLUTION, LINEAR_READS, SIZES, Replaceable
from compressbench.models.structure import AnyModule, geometry, submodule

MASKED_CONVOLUTION = Replaceable(MaskedConv2d, (*SIZES, "padding", "padding_mode"))
MASKED_LINEAR = Replaceable(MaskedLinear, LINEAR_READS)


def deploy(model: AnyModule) -> AnyModule:
    """A copy in eval mode with the same outputs (up to rounding) and less work; the model itself is left alone.

    Masked layers become plain dense ones that hold `weight * mask`; every batch norm that directly follows a plain
    convolution is folded into it (none when the forward pass branches on values, which cannot be traced). Other
    compressed layers, such as quantizers, stay as they are.
    """
    return _fold_norms(unmasked(copy.deepcopy(model).eval())).requires_grad_(False)


def unmasked(model: AnyModule) -> AnyModule:
    """Masked layers become plain dense ones in eval mode that hold `weight * mask`, in place; returns the model."""
    return replace_modules(model, lambda _, module: _without_mask(module))


def simulated_kinds(model: nn.Module) -> list[str]:
    """The kinds of compressed layers, each once, that a deployed model still has: dense libraries only imitate them."""
    layers = (m for m in deploy(model).modules() if isinstance(m, CompressedLayer) and not isinstance(m, nn.Identity))
    return sorted({layer.kind for layer in layers})


def foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """`convolution_norm_pairs`; none when the forward pass cannot be traced."""
    try:
        return convolution_norm_pairs(model)
    except UserError:
        return []


def _without_mask(module: nn.Module) -> nn.Module | None:
    """The plain layer with the masked weight; None for any other module."""
    if not (MASKED_CONVOLUTION.covers(module) or MASKED_LINEAR.covers(module)):
        return None
    with_bias = module.bias is not None
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced below
        layer: nn.Conv2d | nn.Linear
        if isinstance(module, MaskedLinear):
            layer = nn.Linear(module.in_features, module.out_features, with_bias)
        else:
            sizes = (module.in_channels, module.out_channels, *geometry(module))
            layer = nn.Conv2d(*sizes, module.groups, with_bias, module.padding_mode)
    layer.weight = nn.Parameter(module.effective_weight().detach())
    layer.bias = module.bias
    return layer.eval()


def _fold_norms(model: AnyModule) -> AnyModule:
    for convolution, norm in foldable_pairs(model):
        layer = model.get_submodule(convolution)
        # scaling a quantized weight would move it off its grid
        if type(layer) is nn.Conv2d and CONVOLUTION.covers(layer):
            fold_norm(layer, submodule(model, norm, _BatchNorm))
            model.set_submodule(norm, nn.Identity())
    return model
