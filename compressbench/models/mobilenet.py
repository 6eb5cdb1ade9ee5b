"""MobileNet-V1 (Howard et al. 2017), V2 (Sandler et al. 2018) and V3 (Howard et al. 2019)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor, nn

from compressbench.models.structure import (
    Classifier,
    ClassifierKind,
    Coupling,
    conv_unit,
    initialise_kaiming,
    inner_width,
    make_classifier,
)

Widths = Mapping[str, int] | None
Activation = Literal["relu", "relu6"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than 10 % smaller."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


# ---- V1


class SeparableBlock(nn.Module):
    """Depthwise 3x3 then pointwise 1x1 convolution, each with batch normalisation and activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.depthwise = conv_unit(inputs, inputs, stride=stride, groups=inputs, activation=activation)
        self.pointwise = conv_unit(inputs, outputs, kernel=1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        return self.pointwise(self.depthwise(x))


class MobileNetV1(Classifier):
    """Stem and separable blocks; the widths of the pointwise convolutions are free."""

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        strides: Sequence[int],
        in_channels: int,
        classes: int,
        classifier: ClassifierKind,
        inner_widths: Widths,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if len(widths) != len(strides):
            raise ValueError(f"mobilenet: {len(widths)} widths but {len(strides)} strides")
        self.stem = conv_unit(in_channels, stem, stride=2, activation=activation)
        self.blocks = nn.Sequential()
        inputs = stem
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            outputs = inner_width(inner_widths, f"blocks.{i}.pointwise.conv", width)
            self.blocks.append(SeparableBlock(inputs, outputs, stride, activation))
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, inputs, classes)
        initialise_kaiming(self.classifier)

    def features(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> pooled features [N, C]."""
        return self.pool(self.blocks(self.stem(images))).flatten(1)

    def couplings(self) -> tuple[Coupling, ...]:
        """Each pointwise convolution feeds the next one through that block's depthwise convolution."""
        return tuple(self._coupling(i) for i in range(len(self.blocks)))

    def _coupling(self, i: int) -> Coupling:
        unit, following = f"blocks.{i}.pointwise", f"blocks.{i + 1}"
        if i + 1 == len(self.blocks):
            return Coupling(f"{unit}.conv", f"{unit}.bn", ("classifier",), activation=f"{unit}.act")
        depthwise = f"{following}.depthwise"
        followers = ((f"{depthwise}.conv", f"{depthwise}.bn"),)
        readers = (f"{following}.pointwise.conv",)
        return Coupling(f"{unit}.conv", f"{unit}.bn", readers, followers, activation=f"{depthwise}.act")


def mobilenet_v1(
    width: float = 1.0,
    in_channels: int = 3,
    classes: int = 1000,
    classifier: ClassifierKind = "linear",
    inner_widths: Widths = None,
    activation: Activation = "relu",
) -> MobileNetV1:
    """The ImageNet network with width multiplier `width`; "relu6" is the activation in PSS-Net's code."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, not {activation!r}")
    channels = (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    stem, widths = round_channels(32 * width), [round_channels(c * width) for c in channels]
    return MobileNetV1(stem, widths, strides, in_channels, classes, classifier, inner_widths, ACTIVATIONS[activation])


def mobilenet_mini(
    stem: int = 16,
    widths: Sequence[int] = (32, 64, 64, 128, 128),
    strides: Sequence[int] = (1, 2, 1, 2, 1),
    in_channels: int = 1,
    classes: int = 10,
    classifier: ClassifierKind = "linear",
    inner_widths: Widths = None,
) -> MobileNetV1:
    """A half-width MobileNet-V1 with five blocks for small images."""
    return MobileNetV1(stem, widths, strides, in_channels, classes, classifier, inner_widths)


# ---- V2 and V3


class SqueezeExcite(nn.Module):
    """Scales the channels by hardsigmoid(expand(relu(reduce(global average))))."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> same shape."""
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class Stage(NamedTuple):
    """One inverted residual: the width between expansion and projection, the output width, and its options."""

    kernel: int
    expanded: int
    outputs: int
    stride: int
    activation: Callable[[], nn.Module]
    squeeze: bool = False
    expand: bool = True
    shortcut: bool = False
    """A 1x1 convolution on the shortcut where the widths differ (at stride 1)."""
    same: bool = False
    """TensorFlow's padding, see `conv_unit`."""


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise, [squeeze-excite,] projection 1x1 without activation; sum where shapes agree."""

    def __init__(self, name: str, inputs: int, stage: Stage, norm: Callable[[int], nn.Module], widths: Widths) -> None:
        super().__init__()
        self.name = name
        expanded = inner_width(widths, f"{name}.expand.conv", stage.expanded) if stage.expand else inputs
        unit = partial(conv_unit, activation=stage.activation, norm=norm)
        self.expand = unit(inputs, expanded, kernel=1) if stage.expand else None
        self.depthwise = unit(expanded, expanded, stage.kernel, stage.stride, groups=expanded, same=stage.same)
        self.squeeze = SqueezeExcite(expanded, round_channels(stage.expanded / 4)) if stage.squeeze else None
        self.project = conv_unit(expanded, stage.outputs, kernel=1, activation=None, norm=norm)
        self.residual = stage.stride == 1 and (stage.shortcut or inputs == stage.outputs)
        widened = self.residual and inputs != stage.outputs
        self.shortcut = conv_unit(inputs, stage.outputs, kernel=1, activation=None, norm=norm) if widened else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        out = x if self.expand is None else self.expand(x)
        out = self.depthwise(out)
        out = out if self.squeeze is None else self.squeeze(out)
        out = self.project(out)
        if not self.residual:
            return out
        return out + (x if self.shortcut is None else self.shortcut(x))

    def couplings(self) -> tuple[Coupling, ...]:
        """The expansion feeds the projection through the depthwise convolution and the gate."""
        if self.expand is None:
            return ()
        name = self.name
        depthwise = ((f"{name}.depthwise.conv", f"{name}.depthwise.bn"),)
        gates = None if self.squeeze is None else (f"{name}.squeeze.reduce", f"{name}.squeeze.expand")
        readers, activation = (f"{name}.project.conv",), f"{name}.depthwise.act"
        return (Coupling(f"{name}.expand.conv", f"{name}.expand.bn", readers, depthwise, gates, activation),)


class InvertedResidualNet(Classifier):
    """Stem, inverted residuals, a last 1x1 convolution, pool, classifier (with a hidden layer in V3)."""

    def __init__(
        self,
        stem: int,
        stages: Sequence[Stage],
        last: int,
        activation: Callable[[], nn.Module],
        norm: Callable[[int], nn.Module],
        in_channels: int,
        classes: int,
        classifier: ClassifierKind = "linear",
        hidden: int | None = None,
        inner_widths: Widths = None,
        stem_stride: int = 2,
        same: bool = False,
    ) -> None:
        super().__init__()
        self.stem = conv_unit(in_channels, stem, stride=stem_stride, activation=activation, norm=norm, same=same)
        widths_in = [stem, *(stage.outputs for stage in stages)]
        blocks = [
            InvertedResidual(f"blocks.{i}", inputs, stage, norm, inner_widths)
            for i, (inputs, stage) in enumerate(zip(widths_in[:-1], stages, strict=True))
        ]
        self.blocks = nn.Sequential(*blocks)
        self.expansions = tuple(coupling for block in blocks for coupling in block.couplings())
        features = inner_width(inner_widths, "last.conv", last)
        self.last = conv_unit(widths_in[-1], features, kernel=1, activation=activation, norm=norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.hidden = hidden
        if hidden is None:
            self.classifier = make_classifier(classifier, features, classes)
        else:
            self.classifier = nn.Sequential(nn.Linear(features, hidden), nn.Hardswish(), nn.Linear(hidden, classes))
        initialise_kaiming(self, mode="fan_out")
        for layer in self.classifier.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.01)

    def features(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> pooled features [N, C]."""
        return self.pool(self.last(self.blocks(self.stem(images)))).flatten(1)

    def couplings(self) -> tuple[Coupling, ...]:
        """The expansions and the last convolution; projections take part in residual sums."""
        consumer = "classifier" if self.hidden is None else "classifier.0"
        return (*self.expansions, Coupling("last.conv", "last.bn", (consumer,), activation="last.act"))


# expansion factor, outputs, blocks, stride of the first block
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    variant: str = "standard",
    in_channels: int = 3,
    classes: int = 1000,
    classifier: ClassifierKind | None = None,
    inner_widths: Widths = None,
) -> InvertedResidualNet:
    """ImageNet MobileNet-V2; "zoo" keeps a 32 -> 32 expansion in the first block and has a "conv" classifier.

    "cifar" keeps it, too, has strides for 32x32 images (2 only at the 64 and 160 wide stages) and 1x1 convolutions on
    the shortcuts between stages of equal size.
    """
    if variant not in ("standard", "zoo", "cifar"):
        raise ValueError(f"variant must be 'standard', 'zoo' or 'cifar', not {variant!r}")
    cifar = variant == "cifar"
    stages, inputs = [], 32
    for factor, outputs, count, stride in _V2:
        for b in range(count):
            first = 1 if b > 0 or (cifar and outputs < 64) else stride
            expand = variant != "standard" or factor > 1
            stages.append(Stage(3, factor * inputs, outputs, first, nn.ReLU6, expand=expand, shortcut=cifar))
            inputs = outputs
    kind = classifier or ("conv" if variant == "zoo" else "linear")
    return InvertedResidualNet(
        32,
        stages,
        1280,
        nn.ReLU6,
        nn.BatchNorm2d,
        in_channels,
        classes,
        kind,
        inner_widths=inner_widths,
        stem_stride=1 if cifar else 2,
    )


# kernel, expanded, outputs, squeeze-excite, hardswish, stride
_V3_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
_V3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def _mobilenet_v3(
    rows: Sequence[tuple[int, int, int, bool, bool, int]],
    hidden: int,
    in_channels: int,
    classes: int,
    inner_widths: Widths,
) -> InvertedResidualNet:
    stages, inputs = [], 16
    for kernel, expanded, outputs, squeeze, hardswish, stride in rows:
        activation = nn.Hardswish if hardswish else nn.ReLU
        stages.append(Stage(kernel, expanded, outputs, stride, activation, squeeze, expand=expanded != inputs))
        inputs = outputs
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    return InvertedResidualNet(
        16, stages, 6 * inputs, nn.Hardswish, norm, in_channels, classes, hidden=hidden, inner_widths=inner_widths
    )


def mobilenet_v3_small(in_channels: int = 3, classes: int = 1000, inner_widths: Widths = None) -> InvertedResidualNet:
    """ImageNet MobileNet-V3-small."""
    return _mobilenet_v3(_V3_SMALL, 1024, in_channels, classes, inner_widths)


def mobilenet_v3_large(in_channels: int = 3, classes: int = 1000, inner_widths: Widths = None) -> InvertedResidualNet:
    """ImageNet MobileNet-V3-large."""
    return _mobilenet_v3(_V3_LARGE, 1280, in_channels, classes, inner_widths)


ARCHITECTURES = {
    "mobilenet_mini": mobilenet_mini,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v3_small": mobilenet_v3_small,
}
