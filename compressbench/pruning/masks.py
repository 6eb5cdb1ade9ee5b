"""Binary masks: which entries are kept (True), with exact counts and stable ties, and the removal of an entry.

Masked training needs no hook while the masks stay fixed: the forward pass uses weight * mask, so a removed weight
gets no gradient, and with weight and momentum at 0 neither weight decay nor momentum moves it. Where masks change
during training, call `zero_removed` after each change.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from compressbench.layers.masked import masked, masked_layers
from compressbench.models.structure import AnyModule

Scope = Literal["global", "layerwise"]
Masks = dict[str, Tensor]


def removed_count(count: int, sparsity: float) -> int:
    """floor(sparsity * count), with `sparsity` taken as the decimal number one writes (0.29 of 100 is 29, not 28)."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be between 0 and 1, not {sparsity}")
    return int(Fraction(repr(float(sparsity))) * count)


def keep_largest(scores: Tensor, removed: int) -> Tensor:
    """Bool mask like `scores`: False at exactly the `removed` smallest, the earlier of equal entries first."""
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort(stable=True)[:removed]] = False
    return mask.view(scores.shape)


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Remove the floor(sparsity * n) smallest of all n scores together."""
    flat = torch.cat([s.flatten() for s in scores.values()])
    kept = keep_largest(flat, removed_count(flat.numel(), sparsity)).split([s.numel() for s in scores.values()])
    return {name: mask.view(s.shape) for (name, s), mask in zip(scores.items(), kept, strict=True)}


def layerwise_masks(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Remove the floor(sparsity * n_l) smallest of the n_l scores of every layer."""
    return {name: keep_largest(s, removed_count(s.numel(), sparsity)) for name, s in scores.items()}


def ranked_masks(scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> Masks:
    """`global_masks` or `layerwise_masks`."""
    return (global_masks if scope == "global" else layerwise_masks)(scores, sparsity)


def random_masks(shapes: Mapping[str, torch.Size], sparsity: float, scope: Scope, generator: torch.Generator) -> Masks:
    """Masks whose removed positions come from one uniform permutation per layer, or one of all layers together."""
    counts = [shape.numel() for shape in shapes.values()]
    if scope == "global":
        ranks: Iterable[Tensor] = torch.randperm(sum(counts), generator=generator).split(counts)
    else:
        ranks = [torch.randperm(count, generator=generator) for count in counts]
    scores = {name: rank.view(shape) for (name, shape), rank in zip(shapes.items(), ranks, strict=True)}
    return ranked_masks(scores, sparsity, scope)


def prunable(model: nn.Module, keep_first: bool = False, keep_last: bool = False) -> dict[str, nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers by name, in order; without the first and the last one where these stay dense."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return dict(layers[int(keep_first) : len(layers) - int(keep_last)])


def apply_masks(model: AnyModule, masks: Mapping[str, Tensor], block: int | None = None) -> AnyModule:
    """Replace the named layers by masked ones, in place, with their removed weights at 0; returns the model."""
    set_masks(masked(model, masks, block), masks)
    zero_removed(model)
    return model


def set_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Copy masks into the named masked layers; their weights stay as they are."""
    layers = masked_layers(model)
    for name, mask in masks.items():
        layers[name].mask.copy_(mask)


@torch.no_grad()
def zero_removed(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> None:
    """Set removed weights, and whatever the optimisers accumulated for them (momentum, moments), to 0."""
    for layer in masked_layers(model).values():
        removed = ~layer.mask
        layer.weight.masked_fill_(removed, 0.0)
        for optimizer in optimizers:
            for value in optimizer.state.get(layer.weight, {}).values():
                if isinstance(value, Tensor) and value.shape == removed.shape:
                    value.masked_fill_(removed, 0.0)


@torch.no_grad()
def pull_removed(model: nn.Module, decay: float) -> None:
    """Add decay (1 - M) W to the gradients: removed weights that still get gradients (straight-through) are pulled to 0."""
    for layer in masked_layers(model).values():
        assert layer.weight.grad is not None, "removed weights get a gradient, too"
        layer.weight.grad.add_(layer.weight * ~layer.mask, alpha=decay)


def kept_weights(model: nn.Module) -> int:
    """How many entries the masks keep (zeros among the weights do not count as removed)."""
    return sum(int(layer.mask.sum()) for layer in masked_layers(model).values())


def densities(model: nn.Module) -> dict[str, float]:
    """Kept share of every masked layer."""
    return {name: float(layer.mask.float().mean()) for name, layer in masked_layers(model).items()}


def regrown_fraction(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Share of the entries kept by `after` that `before` had removed."""
    kept = sum(int(mask.sum()) for mask in after.values())
    return sum(int((mask & ~before[name]).sum()) for name, mask in after.items()) / max(kept, 1)
