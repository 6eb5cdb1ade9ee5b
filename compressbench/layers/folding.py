"""Batch normalisation folded into the convolution before it."""

from collections import Counter, defaultdict
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.fx.proxy import TraceError
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.errors import UserError
from compressbench.layers.registry import compressed_layer
from compressbench.layers.replaceable import BATCH_NORM, CONVOLUTION, LINEAR, VECTOR_NORM
from compressbench.models.structure import AnyModule, submodule


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


def traced(model: nn.Module) -> fx.Graph:
    """The forward pass as a graph of modules; UserError where it has none, as it branches on values or sizes."""
    try:
        return ModulesAsLeaves().trace(model)
    except (TraceError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"torch.fx cannot trace the network's forward pass ({reason}), as this method needs it; take branches on values "
            "and sizes out of it, or choose another method."
        ) from error


def only_argument(node: fx.Node) -> fx.Node | None:
    """What a call reads, where that is one value and it is given nothing else."""
    (source,) = node.args if len(node.args) == 1 and not node.kwargs else (None,)
    return source if isinstance(source, fx.Node) else None


def convolution_norm_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """(convolution, batch norm) by name, each once, in forward order.

    The norm is the only reader of the convolution and reads nothing else, wherever they are used, and has running statistics.
    UserError where the forward pass cannot be traced.
    """
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    for node in traced(model).nodes:
        if node.op == "call_module":
            calls[str(node.target)].append(node)
    names = Counter(module for _, module in model.named_modules(remove_duplicate=False))

    def pair(norm: str) -> tuple[str, str] | None:
        sources = [only_argument(node) for node in calls[norm]]
        targets = {str(source.target) for source in sources if source is not None and source.op == "call_module"}
        if len(targets) != 1 or {*calls[convolution := targets.pop()]} != {*sources}:
            return None
        layers = model.get_submodule(convolution), model.get_submodule(norm)
        alone = all(len(node.users) == 1 for node in calls[convolution]) and all(names[layer] == 1 for layer in layers)
        return (convolution, norm) if alone and CONVOLUTION.fits(layers[0]) and BATCH_NORM.covers(layers[1]) else None

    return [found for norm in list(calls) if (found := pair(norm)) is not None]


def running_statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The mean and the variance [C] that a normalisation remembers, themselves; ValueError where it remembers none."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("this batch normalisation has no running statistics")
    return norm.running_mean, norm.running_var


def scale_and_shift(norm: _BatchNorm, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a normalisation in eval mode makes of x + bias: scale·x + shift, scale = γ/√(σ²+ε), shift = β + (bias − μ)·scale."""
    mean, variance = running_statistics(norm)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (0 if norm.bias is None else norm.bias) - mean * scale
    return scale, shift if bias is None else bias * scale + shift


@torch.no_grad()
def fold_norm(convolution: nn.Conv2d, norm: _BatchNorm) -> None:
    """W' = W·γ/√(σ²+ε), b' = β + (b − μ)·γ/√(σ²+ε) per output channel: the convolution gets a new weight and a bias.

    The old weight stays as it is, for another layer may share it.
    """
    scale, shift = scale_and_shift(norm, convolution.bias)
    weight = convolution.weight
    convolution.weight = nn.Parameter(weight * scale.reshape(-1, 1, 1, 1), requires_grad=weight.requires_grad)
    convolution.bias = nn.Parameter(shift)


@torch.no_grad()
def fold_norms_into_linears(module: fx.GraphModule, example: Tensor) -> fx.GraphModule:
    """Fold every batch norm of vectors [N, C] whose only reader is a linear layer into that, in place; returns the module.

    W' = W·scale, b' = b + W·shift: the same function in eval mode, up to rounding. Each of both is called once.
    """
    ShapeProp(module).propagate(example.clone())  # type: ignore[no-untyped-call]
    calls = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_module")
    for node in module.graph.nodes:
        source = only_argument(node)
        if source is None or {node.op, source.op} != {"call_module"} or len(source.users) > 1:
            continue
        norm, linear = (module.get_submodule(str(n.target)) for n in (source, node))
        once = calls[str(node.target)] == calls[str(source.target)] == 1
        if once and VECTOR_NORM.covers(norm) and LINEAR.covers(linear) and len(source.meta["tensor_meta"].shape) == 2:
            scale, shift = scale_and_shift(norm, None)
            bias = linear.weight @ shift
            linear.bias = nn.Parameter(bias if linear.bias is None else linear.bias + bias)
            linear.weight = nn.Parameter(linear.weight * scale)
            module.set_submodule(str(source.target), FoldedNorm())
    return module


def fold_norms(model: AnyModule) -> AnyModule:
    """Fold every batch normalisation that directly follows a plain convolution, in place; returns the model.

    The same function of the input in eval mode, up to rounding.
    """
    for convolution, norm in convolution_norm_pairs(model):
        layer = model.get_submodule(convolution)
        if CONVOLUTION.covers(layer):
            fold_norm(layer, submodule(model, norm, _BatchNorm))
            model.set_submodule(norm, FoldedNorm())
    return model
