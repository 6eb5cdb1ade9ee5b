"""Every original channel as a linear combination of the kept, quantized ones: the objective and its only minimiser."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.data_free.closed_forms import folded
from compressbench.data_free.pruning import selection

Objective = Literal["folded", "normalised"]


def channels(weight: Tensor, bias: Tensor | None, norm: _BatchNorm, objective: Objective) -> tuple[Tensor, Tensor]:
    """Rows a_j and offsets b_j that represent the channels, float64 [N, M k k] and [N].

    folded: the affine map to the pre-activation, a_j = (γ_j/s_j) vec(W_j), b_j = β_j − μ_j γ_j/s_j.
    normalised: a_j = γ_j vec(W_j)/‖W_j‖, b_j = β_j, without the large μ.
    """
    if objective == "folded":
        return folded(weight, bias, norm)
    directions = torch.nn.functional.normalize(weight.double().flatten(1))
    return norm.weight.double()[:, None] * directions, norm.bias.double()


def errors(
    mixing: Tensor, rows: Tensor, offsets: Tensor, kept: Tensor, rounded: Tensor, alpha1: float, alpha2: float
) -> Tensor:
    """l_j = ‖a_j − Ã^T S_j‖² + α1 (b_j − b̃^T S_j)² + α2 ‖S_j − E_j‖² of every column j of `mixing`: [N].

    mixing S [n, N]; rows A [N, d], offsets b [N]; kept int64 [n]; rounded Ã [n, d]. b̃ = b[kept], since the batch norm is not
    touched, and E selects the kept channels.
    """
    moved = (mixing - selection(len(rows), kept)).square().sum(0)
    constant = (offsets - offsets[kept] @ mixing).square()
    return (rows.T - rounded.T @ mixing).square().sum(0) + alpha1 * constant + alpha2 * moved


def closed_form(rows: Tensor, offsets: Tensor, kept: Tensor, rounded: Tensor, alpha1: float, alpha2: float) -> Tensor:
    """S = E + D, float64 [n, N], the minimiser of every column of `errors`.

        R = A − E^T Ã,  ρ = b − E^T b̃        a pruned channel as a whole; of a kept one what rounding took
        D = (Ã Ã^T + α1 b̃ b̃^T + α2 I)^−1 (Ã R^T + α1 b̃ ρ^T)

    The ridge is on D: it pulls kept channels to themselves, pruned ones to nothing. α2 > 0 makes the matrix positive definite.
    """
    select, kept_offsets = selection(len(rows), kept), offsets[kept]
    residual, gap = rows - select.T @ rounded, offsets - select.T @ kept_offsets
    gram = rounded @ rounded.T + alpha1 * torch.outer(kept_offsets, kept_offsets) + alpha2 * select @ select.T
    return select + torch.linalg.solve(gram, rounded @ residual.T + alpha1 * torch.outer(kept_offsets, gap))
