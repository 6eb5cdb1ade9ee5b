"""Cross-layer ranking and k-reciprocal nearest filters as pure tensor functions (arXiv 2202.07190)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compressbench import accounting

Groups = Mapping[str, Sequence[Tensor]]
"""The weights that are ranked as one: of one convolution, or of all that share their output channels."""


def relative_costs(model: nn.Module, shape: tuple[int, int, int], units: Sequence[str]) -> list[float]:
    """c_l: operations of the convolutions, biases and batch norms of every unit (a module), over those of the first unit.

    Layers in no unit count for the next one, as the stem does for the first residual block; what follows the last
    unit counts for none. Convolutions of the same unit cost the same. An output costs its multiply-accumulates, 1 for a
    bias and 4 for a batch norm.
    """
    convention = accounting.CONVENTIONS["with_bn_logged"]
    costs, waiting = dict.fromkeys(units, 0.0), 0.0
    for row in accounting.layer_table(model, shape):
        if row.kind not in ("conv", "norm"):
            continue
        waiting += convention.count(row)
        unit = next((u for u in units if row.name.startswith(f"{u}.")), None)
        if unit is not None:
            costs[unit] += waiting
            waiting = 0.0
    return [costs[unit] / costs[units[0]] for unit in units]


def cross_layer_rates(groups: Groups, costs: Mapping[str, float], power: float, ratio: float) -> dict[str, float]:
    """p_l: the share of a group's weights with a = |w| / c^power below the K-th largest a of all, K = int(N (1 - ratio)).

    Double precision: magnitudes of different layers must not become equal by rounding.
    """
    scaled = {
        name: torch.cat([w.detach().flatten() for w in weights]).abs().double() / costs[name] ** power
        for name, weights in groups.items()
    }
    ranked = torch.cat(list(scaled.values()))
    kept = int(len(ranked) * (1 - ratio))
    if kept == 0:
        return dict.fromkeys(groups, 1.0)
    threshold = ranked.kthvalue(len(ranked) - kept + 1).values
    return {name: int((values < threshold).sum()) / len(values) for name, values in scaled.items()}


def worst_ranks(filters: Tensor) -> Tensor:
    """r_j = max_i rank_i(j): filters [n, ...] -> int64 [n], from 1.

    rank_i(j) is j's place among all filters by their distance to i; i itself comes first, of equals the lowest index.
    The similarity exp(-d^2) of the paper, divided by its row's sum, orders a row the same way, and underflows.
    """
    flat = filters.detach().flatten(1).double()
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(-1)
    ranks = distance.argsort(dim=1, stable=True).argsort(dim=1) + 1
    return ranks.max(dim=0).values


def reciprocal_nearest(filters: Tensor, count: int) -> Tensor:
    """The `count` filters that all filters recommend: filters [n, ...] -> int64 [count], ascending.

    The paper lets every filter recommend its k nearest ones and grows k until the recommendations have enough filters
    in common. Filter j is among them once k reaches its worst rank r_j, so these are the filters of smallest r_j; ties at
    the end, which the paper leaves open, go to the lowest index.
    """
    if not 1 <= count <= len(filters):
        raise ValueError(f"{count} of {len(filters)} filters cannot be kept")
    return worst_ranks(filters).argsort(stable=True)[:count].sort().values
