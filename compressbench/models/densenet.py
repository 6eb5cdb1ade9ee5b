"""DenseNet (Huang et al. 2017): the basic kind for small images, and DenseNet-121 with bottlenecks and compression."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressbench.models.structure import Classifier, ClassifierKind, conv_unit, initialise_kaiming, make_classifier

BLOCKS = 3


def norm_relu_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Batch normalisation (`bn`), activation (`act`), convolution (`conv`)."""
    conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(inputs), act=nn.ReLU(), conv=conv))


class DenseBlock(nn.Module):
    """Layers that each read all maps before them and add `growth` channels.

    `bottleneck` growths is the width of a 1x1 convolution before each 3x3; 0: there is none.
    """

    def __init__(self, inputs: int, growth: int, layers: int, bottleneck: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self._layer(inputs + i * growth, growth, bottleneck) for i in range(layers))
        self.outputs = inputs + layers * growth

    @staticmethod
    def _layer(inputs: int, growth: int, bottleneck: int) -> nn.Sequential:
        if not bottleneck:
            return norm_relu_conv(inputs, growth, 3)
        width = bottleneck * growth
        return nn.Sequential(
            OrderedDict(reduce=norm_relu_conv(inputs, width, 1), grow=norm_relu_conv(width, growth, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, inputs + layers * growth, H, W]."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class DenseNet(Classifier):
    """DenseNet-`depth`-`growth`: a 3x3 stem, three dense blocks with transitions that halve the size, BN-ReLU, classifier."""

    def __init__(
        self,
        depth: int = 40,
        growth: int = 12,
        in_channels: int = 3,
        classes: int = 10,
        classifier: ClassifierKind = "linear",
    ) -> None:
        super().__init__()
        if depth < 7 or depth % 3 != 1:
            raise ValueError(f"densenet: depth must be 3n + 4 with n of 1 or more, not {depth}")
        width = 2 * growth
        self.body = nn.Sequential()
        self.body.add_module("stem", nn.Conv2d(in_channels, width, 3, 1, 1, bias=False))
        for b in range(BLOCKS):
            block = DenseBlock(width, growth, (depth - 4) // 3)
            width = block.outputs
            self.body.add_module(f"block{b}", block)
            if b < BLOCKS - 1:
                transition = norm_relu_conv(width, width, 1)
                transition.add_module("pool", nn.AvgPool2d(2))
                self.body.add_module(f"transition{b}", transition)
        self.body.add_module("bn", nn.BatchNorm2d(width))
        self.body.add_module("relu", nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, width, classes)
        initialise_kaiming(self)

    def taps(self) -> tuple[str, ...]:
        """The first two dense blocks and the last activation."""
        return ("body.block0", "body.block1", "body.relu")


class DenseNet121(Classifier):
    """ImageNet DenseNet-121: a 7x7 stem, dense blocks with bottlenecks, transitions that halve width and size."""

    def __init__(
        self, layers: Sequence[int] = (6, 12, 24, 16), growth: int = 32, in_channels: int = 3, classes: int = 1000
    ) -> None:
        super().__init__()
        self.layers, width = tuple(layers), 2 * growth
        stem = conv_unit(in_channels, width, 7, 2)
        stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(OrderedDict(stem=stem))
        for b, count in enumerate(layers):
            block = DenseBlock(width, growth, count, bottleneck=4)
            self.body.add_module(f"block{b}", block)
            width = block.outputs
            if b < len(layers) - 1:
                transition = norm_relu_conv(width, width // 2, 1)
                transition.add_module("pool", nn.AvgPool2d(2))
                self.body.add_module(f"transition{b}", transition)
                width //= 2
        self.body.add_module("bn", nn.BatchNorm2d(width))
        self.body.add_module("relu", nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, classes)
        initialise_kaiming(self)

    def taps(self) -> tuple[str, ...]:
        """Every dense block but the last, and the last activation."""
        return (*(f"body.block{b}" for b in range(len(self.layers) - 1)), "body.relu")


ARCHITECTURES = {"densenet": DenseNet, "densenet121": DenseNet121}
