"""The parts of the search: quotas, initial masks, layers with scores, the exchange of mask entries, the overlap of masks."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.layers.masked import masked, masked_layers
from compressbench.models.structure import AnyModule
from compressbench.pruning.masks import Masks, apply_masks, keep_largest, prunable, removed_count
from compressbench.pruning.trained_masks import SCORED, scored_layers

Quotas = dict[str, int]
Restriction = Literal["none", "quartic", "released"]

# ---- quotas and initial masks


def inner_weights(model: nn.Module) -> dict[str, Tensor]:
    """W_l of every convolution and linear layer but the classifier, which must be the last one, by name."""
    names = list(prunable(model))
    if not names or names[-1] != "classifier":
        raise UserError(
            f"lottery_jackpots leaves the classifier dense, but the last layer is {names[-1] if names else 'missing'}; "
            "use a network whose last convolution or linear layer is called classifier."
        )
    return {name: layer.weight.detach() for name, layer in prunable(model, keep_last=True).items()}


def global_quotas(weights: Mapping[str, Tensor], sparsity: float) -> Quotas:
    """q_l = #{|W_l| < t}, t the floor(N (1 - p))-th largest magnitude of all layers together.

    The floor is taken in double precision, rounding error included, as behind the published counts.
    """
    pool = torch.cat([weight.abs().flatten() for weight in weights.values()])
    keep = max(1, int(pool.numel() * (1 - sparsity)))
    threshold = pool.topk(keep, sorted=False).values.min()
    return {name: int((weight.abs() < threshold).sum()) for name, weight in weights.items()}


def uniform_quotas(weights: Mapping[str, Tensor], sparsity: float) -> Quotas:
    """q_l = floor(p n_l)."""
    return {name: removed_count(weight.numel(), sparsity) for name, weight in weights.items()}


def magnitude_masks(weights: Mapping[str, Tensor], quotas: Quotas) -> Masks:
    """M_l = 0 on the q_l smallest |W_l|."""
    return {name: keep_largest(weight.abs(), quotas[name]) for name, weight in weights.items()}


def scattered_masks(weights: Mapping[str, Tensor], quotas: Quotas, generator: torch.Generator) -> Masks:
    """M_l = 0 on q_l positions at random."""
    return {
        name: keep_largest(torch.randperm(weight.numel(), generator=generator), quotas[name])
        .view(weight.shape)
        .to(weight.device)
        for name, weight in weights.items()
    }


# ---- layers with scores


def add_scores(model: AnyModule, masks: Masks, low: float, rank_by_abs: bool = False) -> AnyModule:
    """Freeze `model` and give its layers masks and scores, in place: S = 1 where M = 1, `low` where M = 0.

    Layers without a mask among `masks` (the classifier) keep every weight, and have scores nevertheless.
    """
    masked(model.requires_grad_(False), forms=SCORED)
    for name, layer in scored_layers(model).items():
        layer.by_magnitude = rank_by_abs
        layer.mask.copy_(masks.get(name, layer.mask))
        layer.score.data.fill_(low).masked_fill_(layer.mask, 1.0)
    return model


def export(searched: nn.Module, network: AnyModule) -> AnyModule:
    """A copy of `network` with the masks and the batch-norm statistics of the search; every kept weight as it was."""
    result = copy.deepcopy(network)
    state = {n: t for n, t in searched.state_dict().items() if not n.endswith((".score", ".mask"))}
    result.load_state_dict(state, strict=True)
    layers = masked_layers(searched)
    return apply_masks(result, {name: layers[name].mask for name in inner_weights(network)})


# ---- the exchange


def restriction_factor(kind: Restriction, epoch: int, epochs: int) -> float:
    """r(e): 1; (1 - e/E)^4; or its ceiling, which is what the authors released and always 1."""
    if kind == "none":
        return 1.0
    factor = (1 - epoch / epochs) ** 4
    return factor if kind == "quartic" else math.ceil(factor)


def restricted(pairs: int, factor: float) -> int:
    """K' = ceil(K r), a single pair always."""
    if not 0 < factor <= 1:
        raise ValueError(f"the restriction factor must be above 0 and at most 1, not {factor}")
    return math.ceil(pairs * factor) if pairs > 1 else pairs


def exchange(mask: Tensor, rank: Tensor, removed: int, factor: float = 1.0) -> Tensor:
    """The mask after one iteration: the K' most convincing pairs of a removed and a kept entry change places.

    With factor 1 the largest n - removed ranks are kept afterwards. Ties around the threshold, as before the first
    step, change nothing.

    Args:
        mask: bool, any shape, with `removed` zeros (the quota q_l); not changed.
        rank: scores (or their absolute values) of the mask's shape.
        factor: r, the share of the pairs that change places.
    """
    if not 0 < removed < mask.numel():
        return mask
    above = rank > rank.flatten().topk(mask.numel() - removed + 1, sorted=False).values.min()  # the q_l-th smallest
    grow, drop = above & ~mask, mask & ~above
    pairs = int(grow.sum())
    if pairs == 0 or pairs != int(drop.sum()):
        return mask
    if (count := restricted(pairs, factor)) == pairs:
        return above
    changed = mask.flatten().clone()
    changed[_first(grow, -rank, count)] = True
    changed[_first(drop, rank, count)] = False
    return changed.view(mask.shape)


def _first(chosen: Tensor, key: Tensor, count: int) -> Tensor:
    """Flat indices of the `count` chosen entries of smallest key, the earlier of equal ones first."""
    candidates = chosen.flatten().nonzero().squeeze(1)
    return candidates[key.flatten()[candidates].argsort(stable=True)[:count]]


# ---- what the masks have in common


def overlap(masks: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Share of the entries kept by `masks` that `others` keep as well."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return sum(int((mask & others[name]).sum()) for name, mask in masks.items()) / max(kept, 1)


def chance_overlap(masks: Mapping[str, Tensor]) -> float:
    """The overlap to expect of independent masks with the same quotas: sum_l k_l^2 / n_l over sum_l k_l."""
    counts = [(int(mask.sum()), mask.numel()) for mask in masks.values()]
    return sum(kept * kept / size for kept, size in counts) / max(sum(kept for kept, _ in counts), 1)


QUOTAS: dict[str, Callable[[Mapping[str, Tensor], float], Quotas]] = {
    "magnitude": global_quotas,
    "uniform": uniform_quotas,
}
