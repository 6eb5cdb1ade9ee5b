"""Quantized networks of papers as they are deployed: bit widths are known, ranges are those of noise."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from compressbench.layers.binary import OneBitConv2d, binarise
from compressbench.layers.quantized import insert_quantizers, track_ranges
from compressbench.method import Deployment
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.quantization.binary_counts import BINARY_NETWORKS
from compressbench.quantization.post_training import Clipping, PostTrainingConfig, observe, quantize_post_training

IMAGES = 4  # of noise, which set the ranges
INTEGER = ("onnxruntime_int8", "openvino_int8")
IMAGENET = ("ResNet-18", "MobileNet-V1", "MobileNet-V2")
TITLES = {
    "binary_resnet18": "ResNet-18, binary",
    "binary_resnet34": "ResNet-34, binary",
    "binary_resnet18_cifar": "ResNet-18 (CIFAR), binary",
    "binary_vgg_small": "VGG-small (CIFAR), binary",
}
BINARY = {title: replace(n, name=title) for n in BINARY_NETWORKS if (title := TITLES.get(n.name))}
SHOWN = "binary_resnet18"
INT8_NOTE = "runs in int8: fewer bits make the network smaller, not faster"


def words(weight_bits: int, activation_bits: int) -> str:
    """A setting, such as 4/4 bits: of weights and of activations."""
    return f"{weight_bits}/{activation_bits} bits"


@dataclass(frozen=True)
class PostTraining:
    """Folds the batch norms and quantizes inputs and weights of every layer, on the ranges of noise."""

    weight_bits: int
    activation_bits: int
    clipping: Clipping
    shape: tuple[int, int, int]

    def __call__(self, model: Network) -> nn.Module:
        bits = {"weight_bits": self.weight_bits, "activation_bits": self.activation_bits}
        config = PostTrainingConfig.model_validate(bits)
        ranges = observe(model, [torch.randn(IMAGES, *self.shape)], config, self.clipping)
        return quantize_post_training(model, ranges, config, self.clipping)


@dataclass(frozen=True)
class Quantizers:
    """Weights on the span of every channel, activations behind every ReLU, on the ranges of noise (IntraQ, FDDA)."""

    weight_bits: int
    activation_bits: int
    shape: tuple[int, int, int]

    @torch.no_grad()
    def __call__(self, model: Network) -> nn.Module:
        insert_quantizers(model, self.weight_bits, self.activation_bits)
        track_ranges(model, True)
        model(torch.randn(IMAGES, *self.shape))
        track_ranges(model, False)
        return model


def post_training(network: str, bits: tuple[int, int], clipping: Clipping = "minmax") -> Deployment:
    """A network after `PostTraining`."""
    dense, shown = NETWORKS[network], network == "ResNet-18"
    compress = PostTraining(*bits, clipping, dense.shape)
    return Deployment(dense, words(*bits), compress, INTEGER, representative=shown, note=INT8_NOTE)


def eight_bits() -> list[Deployment]:
    """Every dense network in int8: what one deploys instead of a compressed one."""
    networks = [*NETWORKS.values(), *BINARY.values()]
    return [
        Deployment(n, words(8, 8), PostTraining(8, 8, "minmax", n.shape), INTEGER, reference=True) for n in networks
    ]


def quantizer_networks() -> list[Deployment]:
    """Those that IntraQ and FDDA are published on, with `Quantizers`."""
    found = []
    for network in IMAGENET:
        for bits in ((4, 4), (5, 5)):
            dense, shown = NETWORKS[network], (network, bits) == ("ResNet-18", (4, 4))
            compress = Quantizers(*bits, dense.shape)
            found.append(Deployment(dense, words(*bits), compress, INTEGER, representative=shown, note=INT8_NOTE))
    return found


@dataclass(frozen=True)
class OneBit:
    """The network's binary form: signs of weights and activations, with a scale for every filter where `scaled`."""

    network: str
    form: Literal["recu", "siman"]
    scaled: bool

    def __call__(self, model: Network) -> nn.Module:
        settings = {"scaled": self.scaled, "centred": False}
        float_form = BINARY[self.network].initialised(form=self.form)
        binary = binarise(float_form, lambda layer: OneBitConv2d.rebuild(layer, settings))
        with torch.no_grad():
            for layer in binary.modules():
                if isinstance(layer, OneBitConv2d):
                    layer.weight.sign_()
        return binary


def binary_networks(form: Literal["recu", "siman"], scaled: bool = True) -> list[Deployment]:
    """Those that binary methods are published on, in one method's form."""
    setting = "1/1 bits" if scaled else "1/1 bits, unscaled"
    return [
        Deployment(
            network,
            setting,
            OneBit(name, form, scaled),
            ("compressbench",),
            representative=network.architecture == SHOWN,
        )
        for name, network in BINARY.items()
    ]
