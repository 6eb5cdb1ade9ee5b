"""Networks of papers at full size and without weights, for counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from compressbench import models


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of a paper. The counts of a method extend it by what the paper publishes of it.

    name: as in published.csv. size: side of the square input image, three channels.
    """

    name: str
    architecture: str
    arguments: Mapping[str, object]
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of an input image."""
        return (3, self.size, self.size)

    def build(self, **more: object) -> models.Network:
        """On the meta device: shapes only. `more` are further arguments of the architecture."""
        with torch.device("meta"):
            return models.build(self.architecture, **dict(self.arguments) | more)

    def initialised(self, **more: object) -> models.Network:
        """On the CPU, in eval mode, with the same random weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return models.build(self.architecture, **dict(self.arguments) | more).eval()


NETWORKS = {
    network.name: network
    for network in (
        PublishedNetwork("ResNet-18", "resnet18", {}, 224),
        PublishedNetwork("ResNet-34", "resnet34", {}, 224),
        PublishedNetwork("ResNet-50", "resnet50", {}, 224),
        PublishedNetwork("MobileNet-V1", "mobilenet_v1", {}, 224),
        PublishedNetwork("MobileNet-V2", "mobilenet_v2", {}, 224),
        PublishedNetwork("MobileNet-V3", "mobilenet_v3_large", {}, 224),
        PublishedNetwork("MobileNet-V2 (CIFAR)", "mobilenet_v2", {"variant": "cifar", "classes": 10}, 32),
        PublishedNetwork("VGG-16 (CIFAR)", "vgg", {"depth": 16, "conv_bias": True}, 32),
        PublishedNetwork("VGG-19 (CIFAR)", "vgg", {"depth": 19}, 32),
        PublishedNetwork("ResNet-20 (CIFAR)", "resnet_cifar", {"blocks": (3, 3, 3)}, 32),
        PublishedNetwork("ResNet-56 (CIFAR)", "resnet_cifar", {"blocks": (9, 9, 9)}, 32),
        PublishedNetwork("ResNet-110 (CIFAR)", "resnet_cifar", {"blocks": (18, 18, 18)}, 32),
        PublishedNetwork("GoogLeNet (CIFAR)", "googlenet", {}, 32),
        PublishedNetwork("EDSR x4", "edsr", {"blocks": 16, "channels": 64, "scale": 4}, 96),
        PublishedNetwork("RDN x4", "rdn", {"scale": 4}, 96),
        PublishedNetwork("SRResNet x4", "srresnet", {"scale": 4}, 96),
        PublishedNetwork("DeiT-S", "vit", {}, 224),
        PublishedNetwork(
            "LV-ViT-S",
            "vit",
            {
                "depth": 16,
                "mlp_ratio": 3,
                "qkv_bias": False,
                "norm_eps": 1e-5,
                "embedding": "convolutional",
                "branch_scale": 0.5,
                "token_head": True,
            },
            224,
        ),
    )
}
"""Those on which several methods were published, by the name that tables give them."""
