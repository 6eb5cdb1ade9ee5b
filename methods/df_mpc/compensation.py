"""Ternary weights, their effect on a batch norm's input, and the coefficients of the next layer's input channels."""

from typing import NamedTuple

import torch
from torch import Tensor

from compressbench.data_free.closed_forms import Rounded, Signal, relu_moments, taps

THRESHOLD = 0.7  # of the mean magnitude: ternary weight networks


def ternary(weight: Tensor, per_filter: bool = False, scaled: bool = True) -> Rounded:
    """Q = α T on a grid of 2 bits: Δ = 0.7 mean|W|, T = sign(W) 1[|W| > Δ], α = mean of |W| over |W| > Δ (1 without `scaled`).

    Over the whole layer, or per filter (steps [N, 1, ...]). What is all zero stays zero.
    """
    rows = weight.flatten(1) if per_filter else weight.reshape(1, -1)
    magnitude = rows.abs()
    large = magnitude > THRESHOLD * magnitude.mean(1, keepdim=True)
    alpha = torch.where(large, magnitude, 0).sum(1) / large.sum(1).clamp_min(1)
    step = torch.where((alpha > 0) & torch.tensor(scaled), alpha, 1.0)
    signs = torch.where(large, rows.sign(), 0.0)
    shape = [-1, *[1] * (weight.dim() - 1)] if per_filter else []
    return Rounded((step[:, None] * signs).reshape(weight.shape), step.reshape(shape), 2)


class Change(NamedTuple):
    """What quantizing a layer did to its output, per channel, float64 [N]."""

    shift: Tensor
    """Δ: of the mean."""
    ratio: Tensor
    """κ: standard deviation after over before; 0 where the filter is all zero."""
    correlation: Tensor
    """ρ of the outputs before and after; 0 there, too."""


def change(weight: Tensor, quantized: Tensor, signal: Signal) -> Change:
    """Closed form for inputs of known moments (m, v) [M] that are uncorrelated between taps and channels; weights [N, M, k, k].

    Δ_j = Σ_c m_c Σ_uv (Q − W),   κ_j² = Σ v Q² / Σ v W²,   ρ_j = Σ v W Q / √(Σ v W² Σ v Q²)
    """
    w, q = weight.double(), quantized.double()
    before, after, both = (taps(product) @ signal.variance for product in (w * w, q * q, w * q))
    alive = (before > 0) & (after > 0)
    return Change(
        taps(q - w) @ signal.mean,
        torch.where(alive, after / before, 0).sqrt(),
        torch.where(alive, both / (before * after).sqrt(), 0),
    )


class Outputs(NamedTuple):
    """Pre-activations N(mean, std²) of every channel, after the batch norm; float64 [N], std ≥ 0."""

    mean: Tensor
    std: Tensor


def loss(c: Tensor, correlation: Tensor, before: Outputs, after: Outputs, lambda1: float, lambda2: float) -> Tensor:
    """l_j(c) = γ² − 2 c ρ |γ| ŝ + c² ŝ² + λ1 (β − c m̂)² + λ2 c² of every channel: E|c Ŷ − Y|² for λ1 = 1 and λ2 = 0."""
    variance = before.std.square() - 2 * c * correlation * before.std * after.std + (c * after.std).square()
    return variance + lambda1 * (before.mean - c * after.mean).square() + lambda2 * c.square()


def coefficients(correlation: Tensor, before: Outputs, after: Outputs, lambda1: float, lambda2: float) -> Tensor:
    """c_j = max(0, (ρ |γ| ŝ + λ1 β m̂) / (ŝ² + λ1 m̂² + λ2)), the minimiser of `loss` over c ≥ 0; 1 where the loss is flat."""
    numerator = correlation * before.std * after.std + lambda1 * before.mean * after.mean
    denominator = after.std.square() + lambda1 * after.mean.square() + lambda2
    return torch.where(denominator > 0, numerator / denominator, 1).clamp_min(0)


def reader_change(weight: Tensor, final: Tensor, before: Outputs, after: Outputs) -> tuple[Tensor, Tensor]:
    """(shift of the mean, ratio of the variances) of what the next layer puts out, float64 [K].

    weight V and final V' [K, N, ...]; it reads ReLU(before), of moments (m0, v0), and now ReLU(after), of (m1, v1):

        Σ_j (Σ_uv V' m1_j − Σ_uv V m0_j),     Σ_j v1_j ‖V'[k, j]‖² / Σ_j v0_j ‖V[k, j]‖²
    """
    (m0, v0), (m1, v1) = relu_moments(*before), relu_moments(*after)
    power, final_power = taps(weight.double().square()) @ v0, taps(final.double().square()) @ v1
    return taps(final) @ m1 - taps(weight) @ m0, torch.where(power > 0, final_power / power, 0)
