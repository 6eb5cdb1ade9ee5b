"""Batch normalisation folded into the convolution before it."""

from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.compression.registry import compressed_layer


@compressed_layer
class FoldedNorm(nn.Identity):
    """Stands where a batch normalisation was that is now part of the convolution before it."""

    kind: ClassVar[str] = "folded_norm"

    def config(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    @classmethod
    def rebuild(cls, original: nn.Module, config: dict[str, Any]) -> nn.Module:
        """A fresh one."""
        return cls()


class ModulesAsLeaves(fx.Tracer):
    """Does not look into modules without children: compressed layers are opaque, like torch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


def convolution_norm_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """(convolution, batch norm) by name, each once, where the norm is the only reader of the convolution; in forward order."""
    graph = ModulesAsLeaves().trace(model)
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(model.get_submodule(str(node.target)), _BatchNorm):
            continue
        source = node.args[0]
        if (
            source.op == "call_module"
            and len(source.users) == 1
            and isinstance(model.get_submodule(source.target), nn.Conv2d)
        ):
            pairs.append((str(source.target), str(node.target)))
    return list(dict.fromkeys(pairs))


def scale_and_shift(norm: _BatchNorm, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a normalisation in eval mode makes of x + bias: scale·x + shift, scale = γ/√(σ²+ε), shift = β + (bias − μ)·scale."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = (norm.bias if norm.affine else 0) - norm.running_mean * scale
    return scale, shift if bias is None else bias * scale + shift


@torch.no_grad()
def fold_norm(convolution: nn.Conv2d, norm: _BatchNorm) -> None:
    """W' = W·γ/√(σ²+ε), b' = β + (b − μ)·γ/√(σ²+ε) per output channel, in place; the convolution gets a bias."""
    scale, shift = scale_and_shift(norm, convolution.bias)
    convolution.weight.mul_(scale.reshape(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(shift)


def fold_norms(model: nn.Module) -> nn.Module:
    """Fold every batch normalisation that directly follows a convolution, in place; returns the model.

    The same function of the input in eval mode, up to rounding.
    """
    for convolution, norm in convolution_norm_pairs(model):
        fold_norm(model.get_submodule(convolution), model.get_submodule(norm))  # type: ignore[arg-type]
        model.set_submodule(norm, FoldedNorm())
    return model
