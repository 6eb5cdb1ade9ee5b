"""Statistics of the latent weights of binary networks: histograms, tails, bit entropy, and their alignment with bits."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressbench.layers.binary import binary_layers, standardise
from compressbench.layers.quantizers import positive

BINS, RANGE = 120, 6.0  # of histograms, in standard deviations
TAIL = 0.85  # the Laplace quantile beyond which a weight counts as dead


def laplace_scale(weight: Tensor) -> Tensor:
    """b of the zero-centred Laplace law that is the most likely: the mean magnitude, a scalar without gradient."""
    return weight.detach().abs().mean()


def laplace_quantile(scale: Tensor, tau: Tensor | float) -> Tensor:
    """Q(τ) = -b ln(2 - 2τ), for τ >= 1/2; infinite at 1."""
    logarithm = torch.log(2 - 2 * torch.as_tensor(tau, dtype=scale.dtype, device=scale.device))
    return torch.where(logarithm.isinf(), torch.inf, -scale * logarithm)  # also for a scale of 0


def bit_entropy(bits: Tensor) -> float:
    """Bits of information in one bit of the tensor: 1 where half of them are set."""
    share = bits.float().mean().item()
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


def alignment(weight: Tensor) -> Tensor:
    """cos(b, |w|) of the k largest magnitudes, k = 1 ... n, along the last dimension: S_k / (sqrt(k) |w|).

    [..., n] -> [..., n]. The last entry is the cosine between sign(w) and w; the largest is that of the best {0, 1} vector.
    All 0 for a w of zeros.
    """
    magnitudes = weight.detach().abs().sort(descending=True).values
    counts = torch.arange(1, weight.shape[-1] + 1, dtype=weight.dtype, device=weight.device)
    return magnitudes.cumsum(-1) / (counts.sqrt() * positive(magnitudes.square().sum(-1, keepdim=True).sqrt()))


def best_share(weight: Tensor) -> float:
    """The share of ones of the {0, 1} vector that is aligned best with all magnitudes of a tensor: 1/e for a Laplace law."""
    return (int(alignment(weight.flatten().double()).argmax()) + 1) / weight.numel()


@torch.no_grad()
def describe_latent(model: nn.Module) -> dict[str, Tensor]:
    """Of every binary layer, in forward order, with each filter at mean 0 and deviation 1; on the CPU.

    "counts": int64 [layers, BINS] on [-RANGE, RANGE], values outside in the last bins; "best_share": float32 [layers].
    """
    # CUDA counts and sums in no fixed order
    weights = [standardise(layer.weight.cpu()).float() for layer in binary_layers(model).values()]
    counts = [torch.histc(w.clamp(-RANGE, RANGE), BINS, -RANGE, RANGE).long() for w in weights]
    return {"counts": torch.stack(counts), "best_share": torch.tensor([best_share(w) for w in weights])}


def before_and_after(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two of `describe_latent` under the names of the report, and the edges of the bins."""
    named = {f"{name}_{when}": t for when, part in (("before", before), ("after", after)) for name, t in part.items()}
    return named | {"edges": torch.linspace(-RANGE, RANGE, BINS + 1)}


@torch.no_grad()
def in_tail(weight: Tensor) -> Tensor:
    """bool, shape of the weight: beyond the Laplace quantile at TAIL, once each filter is standardised."""
    values = standardise(weight)
    return values.abs() > laplace_quantile(laplace_scale(values), TAIL)
