"""A plain stack of 3x3 convolutions for small images."""

from collections.abc import Mapping, Sequence

from torch import nn

from compressbench.models.activations import FormName, take_form
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


class Plain(Classifier):
    """conv3x3-BN-ReLU layers without shortcuts, average pool, classifier; every width is free.

    form: the activations of its binary twins.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 32, 64, 64),
        strides: Sequence[int] = (2, 2, 1, 2, 1),
        in_channels: int = 1,
        classes: int = 10,
        classifier: ClassifierKind = "linear",
        inner_widths: Mapping[str, int] | None = None,
        form: FormName = "relu",
    ) -> None:
        super().__init__()
        if len(widths) != len(strides):
            raise ValueError(f"plain: {len(widths)} widths but {len(strides)} strides")
        chosen = [inner_width(inner_widths, f"body.{i}.conv", width) for i, width in enumerate(widths)]
        inputs = [in_channels, *chosen[:-1]]
        self.depth = len(chosen)
        units = [conv_unit(i, o, stride=s) for i, o, s in zip(inputs, chosen, strides, strict=True)]
        self.body = nn.Sequential(*units)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, chosen[-1], classes)
        initialise_kaiming(self)
        take_form(self, form)

    def binary_convolutions(self) -> tuple[str, ...]:
        """All but the first."""
        return tuple(f"body.{i}.conv" for i in range(1, self.depth))

    def couplings(self) -> tuple[Coupling, ...]:
        """Each convolution feeds the next one, the last the classifier."""
        return chain([f"body.{i}" for i in range(self.depth)])


ARCHITECTURES = {"plain": Plain}
