"""GoogLeNet (Szegedy et al. 2015) as the filter-pruning papers train it on CIFAR-10, and the ImageNet network."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from compressbench.models.structure import (
    Classifier,
    ClassifierKind,
    Coupling,
    conv_unit,
    initialise_kaiming,
    inner_width,
    make_classifier,
    submodule,
)

Widths = Mapping[str, int] | None
STEM = 192
UNITS = ("conv1", "reduce3", "conv3", "reduce5", "conv5a", "conv5b", "project")
OUTPUTS = ("conv1", "conv3", "conv5b", "project")
READERS = ("conv1", "reduce3", "reduce5", "project")
# widths of UNITS
INCEPTIONS = {
    "a3": (64, 96, 128, 16, 32, 32, 32),
    "b3": (128, 128, 192, 32, 96, 96, 64),
    "a4": (192, 96, 208, 16, 48, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128, 128),
}
POOL_AFTER = ("b3", "e4")


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1-3x3; 1x1-3x3-3x3 (in place of 5x5); max pool-1x1. Outputs concatenated."""

    def __init__(self, inputs: int, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.widths = widths
        self.conv1 = conv_unit(inputs, widths["conv1"], 1, bias=True)
        self.reduce3 = conv_unit(inputs, widths["reduce3"], 1, bias=True)
        self.conv3 = conv_unit(widths["reduce3"], widths["conv3"], bias=True)
        self.reduce5 = conv_unit(inputs, widths["reduce5"], 1, bias=True)
        self.conv5a = conv_unit(widths["reduce5"], widths["conv5a"], bias=True)
        self.conv5b = conv_unit(widths["conv5a"], widths["conv5b"], bias=True)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.project = conv_unit(inputs, widths["project"], 1, bias=True)

    @property
    def outputs(self) -> int:
        """Channels after the concatenation."""
        return sum(self.widths[name] for name in OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H, W]."""
        branches = (
            self.conv1(x),
            self.conv3(self.reduce3(x)),
            self.conv5b(self.conv5a(self.reduce5(x))),
            self.project(self.pool(x)),
        )
        return torch.cat(branches, dim=1)


class GoogLeNet(Classifier):
    """3x3 stem, nine inceptions with two max pools between them, average pool, classifier; every width is free."""

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        classifier: ClassifierKind = "linear",
        inner_widths: Widths = None,
    ) -> None:
        super().__init__()
        inputs = inner_width(inner_widths, "body.stem.conv", STEM)
        self.body = nn.Sequential()
        self.body.add_module("stem", conv_unit(in_channels, inputs, bias=True))
        for name, widths in INCEPTIONS.items():
            chosen = {
                u: inner_width(inner_widths, f"body.{name}.{u}.conv", w) for u, w in zip(UNITS, widths, strict=True)
            }
            block = Inception(inputs, chosen)
            self.body.add_module(name, block)
            inputs = block.outputs
            if name in POOL_AFTER:
                self.body.add_module(f"pool_{name}", nn.MaxPool2d(3, 2, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, inputs, classes)
        initialise_kaiming(self)

    def taps(self) -> tuple[str, ...]:
        """The last inception before each pool."""
        return tuple(f"body.{name}" for name in (*POOL_AFTER, "b5"))

    def couplings(self) -> tuple[Coupling, ...]:
        """The stem, then the seven convolutions of every inception; four of them end in its concatenation."""
        names = list(INCEPTIONS)
        readers = {
            name: tuple(f"body.{following}.{unit}.conv" for unit in READERS)
            for name, following in zip(["stem", *names], names, strict=False)
        } | {names[-1]: ("classifier",)}
        found = [_unit("body.stem", readers["stem"])]
        for name in names:
            block = submodule(self.body, name, Inception)
            inside = {"reduce3": "conv3", "reduce5": "conv5a", "conv5a": "conv5b"}
            offset = 0
            for unit in UNITS:
                prefix = f"body.{name}"
                if unit in inside:
                    found.append(_unit(f"{prefix}.{unit}", (f"{prefix}.{inside[unit]}.conv",)))
                else:
                    found.append(_unit(f"{prefix}.{unit}", readers[name], offset))
                    offset += block.widths[unit]
        return tuple(found)


def _unit(name: str, readers: tuple[str, ...], offset: int = 0) -> Coupling:
    return Coupling(f"{name}.conv", f"{name}.bn", readers, activation=f"{name}.act", offset=offset)


class PublishedInception(nn.Module):
    """The four branches of the ImageNet network; 3x3 in place of 5x5, as in torchvision's. Outputs concatenated."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, _, project = widths
        self.conv1 = _imagenet_unit(inputs, one, 1)
        self.reduce3 = _imagenet_unit(inputs, reduce3, 1)
        self.conv3 = _imagenet_unit(reduce3, three)
        self.reduce5 = _imagenet_unit(inputs, reduce5, 1)
        self.conv5 = _imagenet_unit(reduce5, five)
        self.pool = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
        self.project = _imagenet_unit(inputs, project, 1)
        self.outputs = one + three + five + project

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H, W]."""
        branches = (
            self.conv1(x),
            self.conv3(self.reduce3(x)),
            self.conv5(self.reduce5(x)),
            self.project(self.pool(x)),
        )
        return torch.cat(branches, dim=1)


_imagenet_unit = partial(conv_unit, norm=partial(nn.BatchNorm2d, eps=0.001))


class ImageNetGoogLeNet(Classifier):
    """ImageNet GoogLeNet with batch normalisation, without the two classifiers that help training. No width is free."""

    def __init__(self, in_channels: int = 3, classes: int = 1000) -> None:
        super().__init__()
        pool = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            stem=_imagenet_unit(in_channels, 64, 7, 2),
            pool_stem=pool(),
            reduce=_imagenet_unit(64, 64, 1),
            conv=_imagenet_unit(64, STEM),
            pool_conv=pool(),
        )
        inputs = STEM
        for name, widths in INCEPTIONS.items():
            layers[name] = block = PublishedInception(inputs, widths)
            inputs = block.outputs
            if name in POOL_AFTER:
                layers[f"pool_{name}"] = pool() if name == POOL_AFTER[0] else nn.MaxPool2d(2, 2, ceil_mode=True)
        self.body = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialise_kaiming(self)

    def taps(self) -> tuple[str, ...]:
        """The last inception before each pool."""
        return tuple(f"body.{name}" for name in (*POOL_AFTER, "b5"))


ARCHITECTURES = {"googlenet": GoogLeNet, "googlenet_imagenet": ImageNetGoogLeNet}
