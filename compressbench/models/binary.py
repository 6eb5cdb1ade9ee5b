"""The networks that binary methods are published on: a skip around every convolution, or around every two.

`form` says whose, see `activations`. The layers are ordinary ones; `binary_convolutions` names those that a method makes
binary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from compressbench.models.activations import Activation, FormName, ShortcutKind, form_of, hardtanh
from compressbench.models.resnet import PadShortcut
from compressbench.models.structure import Classifier, conv_unit

TINY = 1e-8  # the batch-norm weights of the ImageNet networks start here: the network begins as its shortcuts


class Residual(nn.Module):
    """y = act(body(x) + shortcut(x)). The body is one convolution with its batch norm, or two with an activation between."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, convolutions: int, shortcut: ShortcutKind, activation: Activation
    ) -> None:
        super().__init__()
        between = partial(activation, outputs)
        units = [conv_unit(inputs, outputs, stride=stride, activation=between if convolutions == 2 else None)]
        if convolutions == 2:
            units.append(conv_unit(outputs, outputs, activation=None))
        self.body = nn.Sequential(*units)
        self.shortcut = make_shortcut(shortcut, inputs, outputs, stride)
        self.act = activation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        return self.act(self.body(x) + self.shortcut(x))


def make_shortcut(kind: ShortcutKind, inputs: int, outputs: int, stride: int) -> nn.Module:
    """Identity where nothing changes; "conv" is a 1x1 convolution and a batch norm."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "conv":
        return conv_unit(inputs, outputs, kernel=1, stride=stride, activation=None)
    if kind == "slice":
        return PadShortcut(inputs, outputs, stride)
    # ceil_mode: a convolution with stride 2 makes 4 of 7 pixels
    return nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), PadShortcut(inputs, outputs, 1))


class BinaryNetwork(Classifier):
    """A classifier that says which of its convolutions the methods make binary; everything else keeps full precision."""

    binary_shortcuts = False

    def binary_convolutions(self) -> tuple[str, ...]:
        """Names, in forward order: those of the blocks, and 1x1 shortcuts where they are binary in the authors' code."""
        parts = {"body", "shortcut"} if self.binary_shortcuts else {"body"}
        return tuple(n for n, m in self.named_modules() if isinstance(m, nn.Conv2d) and parts & set(n.split(".")))


class BinaryResNet(BinaryNetwork):
    """Stem, stages of `Residual`s, pool, batch norm, linear layer.

    blocks: of two convolutions each, per stage. convolutions: 1 for a skip around each of them, 2 around every two.
    """

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[int],
        widths: Sequence[int],
        convolutions: int,
        shortcut: ShortcutKind,
        activation: Activation,
        classes: int,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ValueError(f"resnet: {len(blocks)} numbers of blocks but {len(widths)} widths")
        self.stem = stem
        self.stages = nn.Sequential()
        inputs = widths[0]
        for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = nn.Sequential()
            for i in range(count * 2 // convolutions):
                stride = 2 if s > 0 and i == 0 else 1
                stage.append(Residual(inputs, width, stride, convolutions, shortcut, activation))
                inputs = width
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.BatchNorm1d(inputs)
        self.classifier: nn.Linear = nn.Linear(inputs, classes)

    def features(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> pooled and normalised features [N, C]."""
        return self.norm(self.pool(self.stages(self.stem(images))).flatten(1))


class BinaryVGG(BinaryNetwork):
    """Stem of 128 channels and five convolutions; a max pool before the norm of every second one; a linear layer on all pixels.

    size: side of the image, divisible by 8.
    """

    def __init__(self, in_channels: int = 3, classes: int = 10, size: int = 32, form: FormName = "relu") -> None:
        super().__init__()
        activation = form_of(form).activation
        self.stem = conv_unit(in_channels, 128, activation=partial(activation, 128))
        self.body = nn.Sequential()
        inputs = 128
        for i, width in enumerate((128, 256, 256, 512, 512)):
            unit = nn.Sequential()
            unit.add_module("conv", nn.Conv2d(inputs, width, 3, padding=1, bias=False))
            if i % 2 == 0:
                unit.add_module("pool", nn.MaxPool2d(2))
            unit.add_module("bn", nn.BatchNorm2d(width))
            unit.add_module("act", activation(width))
            self.body.append(unit)
            inputs = width
        self.classifier = nn.Linear(inputs * (size // 8) ** 2, classes)
        initialise(self, "fan_out")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def features(self, images: Tensor) -> Tensor:
        """[N, c, size, size] -> [N, 512 (size / 8)^2]."""
        return self.body(self.stem(images)).flatten(1)


def initialise(network: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Kaiming normal with ReLU gain for every convolution."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")


def binary_resnet_cifar(
    blocks: Sequence[int] = (3, 3, 3),
    widths: Sequence[int] = (16, 32, 64),
    stem_stride: int = 1,
    in_channels: int = 3,
    classes: int = 10,
    form: FormName = "relu",
) -> BinaryResNet:
    """A skip around every convolution; (3, 3, 3) is ResNet-20."""
    chosen = form_of(form)
    stem = conv_unit(in_channels, widths[0], stride=stem_stride, activation=partial(chosen.stem, widths[0]))
    network = BinaryResNet(stem, blocks, widths, 1, chosen.shortcut, chosen.activation, classes)
    initialise(network)
    if form == "siman":
        nn.init.kaiming_normal_(network.classifier.weight, nonlinearity="relu")
    return network


def binary_resnet18_cifar(in_channels: int = 3, classes: int = 10, form: FormName = "relu") -> BinaryResNet:
    """A skip around every two convolutions. The authors' stems have no activation; SiMaN's shortcuts are binary."""
    chosen = form_of(form)
    stem = conv_unit(in_channels, 64, activation=None if form != "relu" else nn.ReLU)
    own = form == "siman"
    activation = hardtanh if own else chosen.activation
    shortcut: ShortcutKind = "conv" if own else chosen.shortcut
    network = BinaryResNet(stem, (2, 2, 2, 2), (64, 128, 256, 512), 2, shortcut, activation, classes)
    network.binary_shortcuts = own
    if not own:
        initialise(network)
    return network


def _imagenet(blocks: Sequence[int], in_channels: int, classes: int, form: FormName) -> BinaryResNet:
    chosen = form_of(form)
    stem = conv_unit(in_channels, 64, kernel=7, stride=2, activation=partial(chosen.stem, 64))
    stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
    network = BinaryResNet(stem, blocks, (64, 128, 256, 512), 1, "conv", chosen.activation, classes)
    initialise(network)
    if form != "relu":
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.constant_(layer.weight, TINY)
    return network


def binary_resnet18(in_channels: int = 3, classes: int = 1000, form: FormName = "relu") -> BinaryResNet:
    """ImageNet ResNet-18 with a skip around every convolution; its 1x1 shortcuts keep full precision."""
    return _imagenet((2, 2, 2, 2), in_channels, classes, form)


def binary_resnet34(in_channels: int = 3, classes: int = 1000, form: FormName = "relu") -> BinaryResNet:
    """ImageNet ResNet-34 with a skip around every convolution; its 1x1 shortcuts keep full precision."""
    return _imagenet((3, 4, 6, 3), in_channels, classes, form)


ARCHITECTURES = {
    "binary_resnet18": binary_resnet18,
    "binary_resnet18_cifar": binary_resnet18_cifar,
    "binary_resnet34": binary_resnet34,
    "binary_resnet_cifar": binary_resnet_cifar,
    "binary_vgg_small": BinaryVGG,
}
