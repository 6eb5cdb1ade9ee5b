"""Counts of the published networks: they need no training."""

from dataclasses import dataclass

import torch

from compressbench import accounting
from compressbench.data_free.generator import Generator
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from compressbench.quantization.quantized_counts import dense_counts, size_counts


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the paper and the bit widths that are published for it: {setting: bits}."""

    bits: dict[str, int]

    def counts(self) -> list[PublishedCount]:
        """Size counts k bits per quantized weight and 32 per other parameter; scales are not counted. MB = 10⁶ bytes."""
        network = self.build()
        counts = accounting.account(network, self.shape)
        dense = dense_counts(network, counts)
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()]
        for setting, bits in self.bits.items():
            values = size_counts(counts, counts.weights * bits) | {"bit_operations": counts.macs * bits**2}
            found += [PublishedCount(self.name, setting, metric, value) for metric, value in values.items()]
        return found


RESNET20 = {"blocks": (3, 3, 3), "widths": (16, 32, 64), "shortcut": "conv"}
IMAGENET = {"w4a4_imagenet": 4, "w5a5_imagenet": 5}
PUBLISHED = (
    Published("ResNet-20", "resnet_cifar", RESNET20, 32, {"w4a4": 4, "w3a3": 3}),
    Published(
        "ResNet-20 (100 classes)",
        "resnet_cifar",
        RESNET20 | {"classes": 100},
        32,
        {"w4a4_cifar100": 4, "w3a3_cifar100": 3},
    ),
    Published("ResNet-18", "resnet18", {}, 224, IMAGENET),
    Published("MobileNetV1", "mobilenet_v1", {}, 224, IMAGENET),
    Published("MobileNetV2", "mobilenet_v2", {"variant": "zoo"}, 224, IMAGENET),
)
GENERATORS = {"CIFAR-10": (10, 32, False), "CIFAR-100": (100, 32, False), "ImageNet": (1000, 224, True)}


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    found = [count for network in PUBLISHED for count in network.counts()]
    for dataset, (classes, size, conditional) in GENERATORS.items():
        with torch.device("meta"):
            generator = Generator(classes, 3, size, conditional)
        found.append(
            PublishedCount(
                f"generator for {dataset}", "dense", "params", sum(p.numel() for p in generator.parameters())
            )
        )
    return found
