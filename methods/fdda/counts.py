"""Counts of the published networks: they need no training."""

from dataclasses import dataclass

import torch
from torch import nn

from compressbench import accounting
from compressbench.data_free.generator import Generator
from compressbench.layers.quantized import insert_quantizers
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from compressbench.quantization.quantized_counts import dense_counts, size_counts
from methods.fdda.centres import first_aligned_layer

SIZE = 224
BITS = {"w4a4": (4, None), "w4a4_first_last8": (4, 8), "w5a5": (5, None), "w5a5_first_last8": (5, 8)}


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the paper that is available here."""

    def counts(self) -> list[PublishedCount]:
        """Sizes count k bits per quantized weight and 32 per other parameter; scales are not counted. MB = 10⁶ bytes."""
        network = self.build()
        counts = accounting.account(network, self.shape)
        channels = [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        first = first_aligned_layer(len(channels))
        dense = dense_counts(network, counts) | {
            "norm_channels": sum(channels),
            "first_aligned_layer": first,
            "aligned_channels": sum(channels[first:]),
            "size_mb": size_counts(counts, counts.weights * 32)["size_mb"],
        }
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()]
        for setting, (bits, ends) in BITS.items():
            found += self._quantized(setting, bits, ends, counts)
        return found

    def _quantized(self, setting: str, bits: int, ends: int | None, counts: accounting.Account) -> list[PublishedCount]:
        student = insert_quantizers(self.build(), bits, bits, end_weight_bits=ends, end_activation_bits=ends)
        layers = [layer for _, layer in accounting.weight_layers(student)]
        weight_bits = sum(layer.weight.numel() * getattr(layer, "weight_bits", 32) for layer in layers)
        values = {"weight_bits": weight_bits} | size_counts(counts, weight_bits)
        if ends is None:
            values["bit_operations"] = counts.macs * bits**2
        return [PublishedCount(self.name, setting, metric, value) for metric, value in values.items()]


PUBLISHED = (
    Published("ResNet-18", "resnet18", {}, SIZE),
    Published("MobileNetV1", "mobilenet_v1", {}, SIZE),
    Published("MobileNetV2", "mobilenet_v2", {}, SIZE),
)


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    with torch.device("meta"):
        generator = Generator(1000, 3, SIZE, True)
    params = {
        "params": sum(p.numel() for p in generator.parameters()),
        "linear_params": sum(p.numel() for p in generator.project.parameters()),
    }
    found = [count for network in PUBLISHED for count in network.counts()]
    return found + [
        PublishedCount("generator for ImageNet", "dense", metric, value) for metric, value in params.items()
    ]
