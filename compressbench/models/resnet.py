"""Residual networks (He et al. 2016): the 6n+2 family for small images and the ImageNet ones."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.models.structure import (
    Classifier,
    ClassifierKind,
    Coupling,
    conv_unit,
    initialise_kaiming,
    inner_width,
    make_classifier,
)

ShortcutKind = Literal["pad", "conv"]
Widths = Mapping[str, int] | None


class PadShortcut(nn.Module):
    """Shortcut without parameters: subsampling by slicing, zero channels half in front and half behind."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.front = (outputs - inputs) // 2
        self.back = outputs - inputs - self.front

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, ceil(H/stride), ceil(W/stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.front, self.back))


def make_shortcut(kind: ShortcutKind, inputs: int, outputs: int, stride: int) -> nn.Module:
    """Identity where the shape does not change; else zero padding, or a 1x1 convolution and batch normalisation."""
    if kind not in ("pad", "conv"):
        raise ValueError(f"shortcut must be 'pad' or 'conv', not {kind!r}")
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    return conv_unit(inputs, outputs, kernel=1, stride=stride, activation=None)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the width between them (`inner`) is free."""

    expansion = 1

    def __init__(self, name: str, inputs: int, width: int, stride: int, shortcut: ShortcutKind, widths: Widths) -> None:
        super().__init__()
        inner = inner_width(widths, f"{name}.conv1", width)
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = make_shortcut(shortcut, inputs, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, width, H/stride, W/stride]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))

    @staticmethod
    def couplings(name: str) -> tuple[Coupling, ...]:
        """The first convolution feeds only the second."""
        return (Coupling(f"{name}.conv1", f"{name}.bn1", (f"{name}.conv2",)),)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width; the two inner widths are free."""

    expansion = 4

    def __init__(self, name: str, inputs: int, width: int, stride: int, shortcut: ShortcutKind, widths: Widths) -> None:
        super().__init__()
        first = inner_width(widths, f"{name}.conv1", width)
        second = inner_width(widths, f"{name}.conv2", width)
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, first, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(first, second, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(second, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = make_shortcut(shortcut, inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, 4 width, H/stride, W/stride]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + self.shortcut(x))

    @staticmethod
    def couplings(name: str) -> tuple[Coupling, ...]:
        """conv1 feeds conv2, conv2 feeds conv3."""
        pairs = ((1, 2), (2, 3))
        return tuple(Coupling(f"{name}.conv{i}", f"{name}.bn{i}", (f"{name}.conv{j}",)) for i, j in pairs)


class ResNet(Classifier):
    """Stem, stages of residual blocks (the first block of each later stage halves the size), pool, classifier."""

    def __init__(
        self,
        stem: nn.Module,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        shortcut: ShortcutKind,
        classes: int,
        classifier: ClassifierKind,
        inner_widths: Widths,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ValueError(f"resnet: {len(blocks)} numbers of blocks but {len(widths)} widths")
        self.block, self.blocks = block, tuple(blocks)
        self.stem = stem
        stages, inputs = [], widths[0]
        for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = []
            for b in range(count):
                stride = 2 if s > 0 and b == 0 else 1
                stage.append(block(f"stages.{s}.{b}", inputs, width, stride, shortcut, inner_widths))
                inputs = width * block.expansion
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, inputs, classes)
        initialise_kaiming(self)

    def features(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> pooled features [N, C]."""
        return self.pool(self.stages(self.stem(images))).flatten(1)

    def couplings(self) -> tuple[Coupling, ...]:
        """The inner convolutions of every block: a block's output takes part in a sum and keeps its order."""
        names = (f"stages.{s}.{b}" for s, count in enumerate(self.blocks) for b in range(count))
        return tuple(coupling for name in names for coupling in self.block.couplings(name))


def resnet_cifar(
    blocks: Sequence[int] = (3, 3, 3),
    widths: Sequence[int] = (16, 32, 64),
    stem_stride: int = 1,
    in_channels: int = 3,
    classes: int = 10,
    shortcut: ShortcutKind = "pad",
    classifier: ClassifierKind = "linear",
    inner_widths: Widths = None,
) -> ResNet:
    """The 6n+2 network with n basic blocks per stage; (3, 3, 3) is ResNet-20."""
    stem = conv_unit(in_channels, widths[0], stride=stem_stride)
    return ResNet(stem, BasicBlock, blocks, widths, shortcut, classes, classifier, inner_widths)


def _imagenet(
    block: type[BasicBlock] | type[Bottleneck],
    blocks: Sequence[int],
    in_channels: int,
    classes: int,
    classifier: ClassifierKind,
    inner_widths: Widths,
) -> ResNet:
    stem = conv_unit(in_channels, 64, kernel=7, stride=2)
    stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
    return ResNet(stem, block, blocks, (64, 128, 256, 512), "conv", classes, classifier, inner_widths)


def resnet18(
    in_channels: int = 3, classes: int = 1000, classifier: ClassifierKind = "linear", inner_widths: Widths = None
) -> ResNet:
    """ImageNet ResNet-18."""
    return _imagenet(BasicBlock, (2, 2, 2, 2), in_channels, classes, classifier, inner_widths)


def resnet34(
    in_channels: int = 3, classes: int = 1000, classifier: ClassifierKind = "linear", inner_widths: Widths = None
) -> ResNet:
    """ImageNet ResNet-34."""
    return _imagenet(BasicBlock, (3, 4, 6, 3), in_channels, classes, classifier, inner_widths)


def resnet50(
    in_channels: int = 3, classes: int = 1000, classifier: ClassifierKind = "linear", inner_widths: Widths = None
) -> ResNet:
    """ImageNet ResNet-50 with the stride in the 3x3 convolution."""
    return _imagenet(Bottleneck, (3, 4, 6, 3), in_channels, classes, classifier, inner_widths)
