"""Counts of the published networks: they need no training."""

from dataclasses import dataclass

import torch
from torch import nn

from compressbench import accounting
from compressbench.data_free.generator import Generator
from compressbench.layers.quantized import insert_quantizers
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
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
        kinds, first = [type(m) for m in network.modules()], first_aligned_layer(len(channels))
        dense = {
            "params": counts.params,
            "weights": counts.weights,
            "macs": counts.macs,
            "weight_layers": kinds.count(nn.Conv2d) + kinds.count(nn.Linear),
            "activation_quantizers": kinds.count(nn.ReLU) + kinds.count(nn.ReLU6),
            "norm_layers": len(channels),
            "norm_channels": sum(channels),
            "first_aligned_layer": first,
            "aligned_channels": sum(channels[first:]),
            "size_mb": counts.params * 4 / 1e6,
        }
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()]
        for setting, (bits, ends) in BITS.items():
            found += self._quantized(setting, bits, ends, counts)
        return found

    def _quantized(self, setting: str, bits: int, ends: int | None, counts: accounting.Account) -> list[PublishedCount]:
        student = insert_quantizers(self.build(), bits, bits, end_weight_bits=ends, end_activation_bits=ends)
        layers = [layer for _, layer in accounting.weight_layers(student)]
        weight_bits = sum(layer.weight.numel() * getattr(layer, "weight_bits", 32) for layer in layers)
        stored = (weight_bits + (counts.params - counts.weights) * 32) / 8
        values = {
            "weight_bits": weight_bits,
            "size_mb": stored / 1e6,
            "compression": counts.params * 4 / stored,
        }
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
