"""VGG (Simonyan & Zisserman 2015) with batch normalisation: on CIFAR with one linear layer, and the ImageNet network."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import nn

from compressbench.models.structure import (
    Classifier,
    ClassifierKind,
    Coupling,
    chain,
    conv_unit,
    initialise_kaiming,
    inner_width,
    make_classifier,
)

CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(Classifier):
    """Stages of 3x3 convolutions with max pools, average pool, classifier; every width is free.

    `depth` 16 or 19 is the network for CIFAR: a max pool after each of its five stages, so that the average of a 32x32 image
    is that of one pixel. `stages` (convolutions and width of every stage) describes any other network of the kind, with max
    pools between its stages and none after the last one. `hidden` layers stand before the classifier, which then reads
    `pooled` x `pooled` pixels: the last convolution's width is no longer free.
    """

    def __init__(
        self,
        depth: int = 19,
        stages: Sequence[tuple[int, int]] | None = None,
        in_channels: int = 3,
        classes: int = 10,
        conv_bias: bool = False,
        classifier: ClassifierKind = "linear",
        inner_widths: Mapping[str, int] | None = None,
        hidden: Sequence[int] = (),
        pooled: int = 1,
    ) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"vgg depth must be one of {sorted(CONVOLUTIONS)}, not {depth}")
        pools = len(WIDTHS) if stages is None else len(stages) - 1
        stages = stages or list(zip(CONVOLUTIONS[depth], WIDTHS, strict=True))
        self.stage_sizes = [count for count, _ in stages]
        self.body = nn.Sequential()
        inputs = in_channels
        for s, (count, width) in enumerate(stages):
            stage = nn.Sequential()
            for i in range(count):
                outputs = inner_width(inner_widths, f"body.{s}.{i}.conv", width)
                stage.append(conv_unit(inputs, outputs, bias=conv_bias))
                inputs = outputs
            if s < pools:
                stage.add_module("pool", nn.MaxPool2d(2))
            self.body.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.pooled, inputs = pooled, inputs * pooled**2
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, hidden[-1] if hidden else inputs, classes)
        if hidden:
            layers: list[nn.Module] = []
            for sizes in pairwise([inputs, *hidden]):
                layers += [nn.Linear(*sizes), nn.ReLU(), nn.Dropout()]
            self.classifier = nn.Sequential(*layers, self.classifier)
        initialise_kaiming(self)

    def couplings(self) -> tuple[Coupling, ...]:
        """Each convolution feeds the next one, the last the classifier."""
        found = chain([f"body.{s}.{i}" for s, count in enumerate(self.stage_sizes) for i in range(count)])
        return found if self.pooled == 1 else found[:-1]


def vgg_imagenet(
    depth: int = 16,
    in_channels: int = 3,
    classes: int = 1000,
    hidden: Sequence[int] = (4096, 4096),
    inner_widths: Mapping[str, int] | None = None,
) -> VGG:
    """ImageNet VGG-16 or VGG-19: two hidden layers on 7x7 pixels, convolutions with biases."""
    return VGG(depth, None, in_channels, classes, True, inner_widths=inner_widths, hidden=hidden, pooled=7)


ARCHITECTURES = {"vgg": VGG, "vgg_imagenet": vgg_imagenet}
