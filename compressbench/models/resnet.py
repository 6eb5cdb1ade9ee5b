"""Residual networks (He et al. 2016): the 6n+2 family for small images and the ImageNet ones."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.models.activations import FormName, take_form
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


def make_shortcut(kind: ShortcutKind | None, inputs: int, outputs: int, stride: int) -> nn.Module:
    """Identity for None; else zero padding, or a 1x1 convolution and batch normalisation."""
    if kind is None:
        return nn.Identity()
    if kind not in ("pad", "conv"):
        raise ValueError(f"shortcut must be 'pad' or 'conv', not {kind!r}")
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    return conv_unit(inputs, outputs, kernel=1, stride=stride, activation=None)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the width between them (`inner`) is free."""

    expansion = 1

    def __init__(
        self,
        name: str,
        inputs: int,
        width: int,
        outputs: int,
        stride: int,
        shortcut: ShortcutKind | None,
        widths: Widths,
    ) -> None:
        super().__init__()
        inner = inner_width(widths, f"{name}.conv1", width)
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = make_shortcut(shortcut, inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))

    @staticmethod
    def couplings(name: str) -> tuple[Coupling, ...]:
        """The first convolution feeds only the second."""
        return (Coupling(f"{name}.conv1", f"{name}.bn1", (f"{name}.conv2",), activation=f"{name}.relu1"),)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to the wider output; the two inner widths are free."""

    expansion = 4

    def __init__(
        self,
        name: str,
        inputs: int,
        width: int,
        outputs: int,
        stride: int,
        shortcut: ShortcutKind | None,
        widths: Widths,
    ) -> None:
        super().__init__()
        first = inner_width(widths, f"{name}.conv1", width)
        second = inner_width(widths, f"{name}.conv2", width)
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
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + self.shortcut(x))

    @staticmethod
    def couplings(name: str) -> tuple[Coupling, ...]:
        """conv1 feeds conv2, conv2 feeds conv3."""
        return tuple(
            Coupling(f"{name}.conv{i}", f"{name}.bn{i}", (f"{name}.conv{i + 1}",), activation=f"{name}.relu{i}")
            for i in (1, 2)
        )


class ResNet(Classifier):
    """Stem, stages of residual blocks (the first block of each later stage halves the size), pool, classifier.

    Free are the widths inside the blocks and, under the key `stages.N`, the width of each stage: that of all blocks'
    outputs, which are added. The stem has the width of the first stage, or a free one if a convolution lies between.
    """

    def __init__(
        self,
        stem: Callable[[int], nn.Module],
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        shortcut: ShortcutKind,
        classes: int,
        classifier: ClassifierKind,
        inner_widths: Widths,
        form: FormName | None = None,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ValueError(f"resnet: {len(blocks)} numbers of blocks but {len(widths)} widths")
        self.block, self.blocks = block, tuple(blocks)
        outputs = [inner_width(inner_widths, f"stages.{s}", w * block.expansion) for s, w in enumerate(widths)]
        inputs = outputs[0] if block.expansion == 1 else inner_width(inner_widths, "stem.conv", widths[0])
        self.stem = stem(inputs)
        stages = []
        for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = []
            for b in range(count):
                stride = 2 if s > 0 and b == 0 else 1
                changes = b == 0 and (s > 0 or block.expansion > 1)
                name, kind = f"stages.{s}.{b}", shortcut if changes else None
                stage.append(block(name, inputs, width, outputs[s], stride, kind, inner_widths))
                inputs = outputs[s]
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, inputs, classes)
        initialise_kaiming(self)
        self.has_forms = form is not None
        if form is not None:
            take_form(self, form)

    def features(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> pooled features [N, C]."""
        return self.pool(self.stages(self.stem(images))).flatten(1)

    def taps(self) -> tuple[str, ...]:
        """Every stage, after the last addition and its activation."""
        return tuple(f"stages.{s}" for s in range(len(self.blocks)))

    def binary_convolutions(self) -> tuple[str, ...]:
        """Those of the blocks; shortcuts keep full precision. None where the network has only ReLU."""
        convs = (n for n, m in self.stages.named_modules(prefix="stages") if isinstance(m, nn.Conv2d))
        return tuple(n for n in convs if "shortcut" not in n.split(".")) if self.has_forms else ()

    def couplings(self) -> tuple[Coupling, ...]:
        """Per stage: the inner convolutions of every block, then the sum of the blocks' outputs."""
        found: list[Coupling] = []
        if self.block.expansion > 1:
            readers = ("stages.0.0.conv1", "stages.0.0.shortcut.conv")
            found.append(Coupling("stem.conv", "stem.bn", readers, activation="stem.act"))
        for s, count in enumerate(self.blocks):
            for b in range(count):
                found += self.block.couplings(f"stages.{s}.{b}")
            found.append(self._sum(s))
        return tuple(found)

    def _sum(self, s: int) -> Coupling:
        """The channels that the blocks of stage `s` write, and the stem where the first shortcut is an identity."""
        last = 2 if self.block is BasicBlock else 3
        names = [f"stages.{s}.{b}" for b in range(self.blocks[s])]
        first, *added = [(f"{name}.conv{last}", f"{name}.bn{last}") for name in names]
        if s == 0 and self.block.expansion == 1:
            added.insert(0, ("stem.conv", "stem.bn"))
        entrances = [f"stages.{t}.0.shortcut" for t in (s, s + 1) if t < len(self.blocks)]
        kinds = {name: type(self.get_submodule(name)) for name in entrances}
        shortcuts = tuple((f"{n}.conv", f"{n}.bn") for n in entrances[:1] if kinds[n] is nn.Sequential)
        readers = [f"{name}.conv1" for name in names[(0 if ("stem.conv", "stem.bn") in added else 1) :]]
        if s + 1 < len(self.blocks):
            readers.append(f"stages.{s + 1}.0.conv1")
            readers += [f"{n}.conv" for n in entrances[1:] if kinds[n] is nn.Sequential]
        else:
            readers.append("classifier")
        return Coupling(
            *first,
            tuple(readers),
            activation=f"{names[-1]}.relu{last}",
            added=tuple(added),
            shortcuts=shortcuts,
            group=f"stages.{s}",
            padded=PadShortcut in kinds.values(),
        )


def resnet_cifar(
    blocks: Sequence[int] = (3, 3, 3),
    widths: Sequence[int] = (16, 32, 64),
    stem_stride: int = 1,
    in_channels: int = 3,
    classes: int = 10,
    shortcut: ShortcutKind = "pad",
    classifier: ClassifierKind = "linear",
    inner_widths: Widths = None,
    form: FormName = "relu",
) -> ResNet:
    """The 6n+2 network with n basic blocks per stage; (3, 3, 3) is ResNet-20. form: activations of its binary twins."""
    stem = partial(conv_unit, in_channels, stride=stem_stride)
    return ResNet(stem, BasicBlock, blocks, widths, shortcut, classes, classifier, inner_widths, form)


def _imagenet(
    block: type[BasicBlock] | type[Bottleneck],
    blocks: Sequence[int],
    in_channels: int,
    classes: int,
    classifier: ClassifierKind,
    inner_widths: Widths,
) -> ResNet:
    def stem(width: int) -> nn.Sequential:
        unit = conv_unit(in_channels, width, kernel=7, stride=2)
        unit.add_module("pool", nn.MaxPool2d(3, 2, 1))
        return unit

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


ARCHITECTURES = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50, "resnet_cifar": resnet_cifar}
