"""VGG (Simonyan & Zisserman 2015) as used on CIFAR: batch normalisation and one linear layer."""

from collections.abc import Mapping, Sequence

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
    pools between its stages and none after the last one.
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
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, inputs, classes)
        initialise_kaiming(self)

    def couplings(self) -> tuple[Coupling, ...]:
        """Each convolution feeds the next one, the last the classifier."""
        return chain([f"body.{s}.{i}" for s, count in enumerate(self.stage_sizes) for i in range(count)])


ARCHITECTURES = {"vgg": VGG}
