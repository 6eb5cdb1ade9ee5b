"""Quantized networks of papers as they are deployed: bit widths are known, ranges are those of noise."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from compressbench.layers.binary import OneBitConv2d, binarise
from compressbench.layers.quantized import QuantizedActivation, insert_quantizers
from compressbench.method import Deployment
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.models.structure import submodule
from compressbench.pruning.blocks import Rows
from compressbench.pruning.deployments import OWN, RandomBlocks
from compressbench.quantization.binary_counts import BINARY_NETWORKS
from compressbench.quantization.post_training import Clipping, PostTrainingConfig, observe, quantize_post_training
from compressbench.quantization.rounded_blocks import round_on
from compressbench.training.batchnorm_statistics import recompute_statistics

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


def _seen_noise(model: Network, shape: tuple[int, int, int]) -> Tensor:
    """Noise [IMAGES, C, H, W] by whose statistics the batch norms normalise from now on.

    With those of a new network, activations fade from layer to layer until all are rounded to 0.
    """
    noise = torch.randn(IMAGES, *shape)
    with torch.no_grad():
        recompute_statistics(model, [noise])
    return noise


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
        ranges = observe(model, [_seen_noise(model, self.shape)], config, self.clipping)
        return quantize_post_training(model, ranges, config, self.clipping)


@dataclass(frozen=True)
class Quantizers:
    """Weights on the span of every channel, activations behind every ReLU, on the ranges of noise (IntraQ, FDDA)."""

    weight_bits: int
    activation_bits: int
    shape: tuple[int, int, int]

    @torch.no_grad()
    def __call__(self, model: Network) -> nn.Module:
        noise, ranges = _seen_noise(model, self.shape), {}
        for name, module in model.named_modules():
            if isinstance(module, nn.ReLU | nn.ReLU6):
                module.register_forward_hook(lambda _, inputs, x, name=name: ranges.update({name: x.aminmax()}))
        model(noise)
        insert_quantizers(model, self.weight_bits, self.activation_bits)
        for name, (lo, hi) in ranges.items():
            activation = submodule(model, name, QuantizedActivation)
            activation.lo.copy_(lo)
            activation.hi.copy_(hi)
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
class RoundedBlocks:
    """Removes random blocks, then quantizes every layer to 8 bits on the extremes of noise."""

    blocks: RandomBlocks
    shape: tuple[int, int, int]

    def __call__(self, model: Network) -> nn.Module:
        self.blocks(model)
        return round_on(model, _seen_noise(model, self.shape), 8)


def rounded_block_networks(rows: Rows) -> list[Deployment]:
    """Those on which block methods are timed in int8."""
    found = []
    for network in ("MobileNet-V2", "ResNet-18", "ResNet-50"):
        for n, sparsity in ((4, 0.75), (16, 0.75), (16, 0.9)):
            dense = NETWORKS[network]
            compress = RoundedBlocks(RandomBlocks(n, sparsity, rows), dense.shape)
            setting = f"1x{n}, {100 * sparsity:g} %, 8 bits"
            found.append(Deployment(dense, setting, compress, (*OWN, *INTEGER)))
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
