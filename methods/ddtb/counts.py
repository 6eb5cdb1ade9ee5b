"""Numbers of the paper that need no training: parameters, multiply-accumulates and compression of the six networks."""

import torch

from compressbench import models
from compressbench.accounting import layer_table
from compressbench.method import PublishedCount
from compressbench.quantization.super_resolution import body_convolutions

NETWORKS = {f"{network}_x{scale}": (network, scale) for network in ("edsr", "rdn", "srresnet") for scale in (4, 2)}
PATCH = 16
OUTPUT_PIXELS = 1280 * 720


def network_counts(network: str, scale: int) -> dict[str, int]:
    """params, quantized_weights, and multiply-accumulates per low-resolution pixel in the body and outside it."""
    with torch.device("meta"):
        model = models.build(network, scale=scale)
    body = set(body_convolutions(model))
    rows = [row for row in layer_table(model, (1, 3, PATCH, PATCH)) if row.kind == "conv"]
    inside = [row for row in rows if row.name in body]
    total = sum(row.macs for row in rows) // PATCH**2
    quantized = sum(row.macs for row in inside) // PATCH**2
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "quantized_weights": sum(row.weights for row in inside),
        "quantized_macs_per_pixel": quantized,
        "full_precision_macs_per_pixel": total - quantized,
        "macs_per_pixel": total,
    }


def compression(counts: dict[str, int], bits: int) -> float:
    """32-bit size over size with the body's weights at `bits`; gates not counted."""
    rest = counts["params"] - counts["quantized_weights"]
    return 32 * counts["params"] / (counts["quantized_weights"] * bits + rest * 32)


def tera_bops(counts: dict[str, int], bits: int, scale: int) -> float:
    """Bit-operations (MAC · weight bits · activation bits) of a 1280x720 result, in 10^12."""
    per_pixel = counts["quantized_macs_per_pixel"] * bits**2 + counts["full_precision_macs_per_pixel"] * 32**2
    return per_pixel * OUTPUT_PIXELS / scale**2 / 1e12


def recomputed_facts() -> list[PublishedCount]:
    """All of it, as rows that meet those of published.csv."""
    recomputed = []
    for model, (network, scale) in NETWORKS.items():
        counts = network_counts(network, scale)
        recomputed += [PublishedCount(model, "dense", metric, value) for metric, value in counts.items()]
        recomputed += [
            PublishedCount(model, f"w{bits}a{bits}", "compression", compression(counts, bits)) for bits in (2, 3, 4)
        ]
        if scale == 4:
            recomputed.append(
                PublishedCount(model, "dense", "gmacs_720p", counts["macs_per_pixel"] * OUTPUT_PIXELS / scale**2 / 1e9)
            )
            recomputed.append(PublishedCount(model, "dense", "tbops_720p", tera_bops(counts, 32, scale)))
            recomputed += [
                PublishedCount(model, f"w{bits}a{bits}", "tbops_720p", tera_bops(counts, bits, scale))
                for bits in (2, 3, 4)
            ]
    return recomputed
