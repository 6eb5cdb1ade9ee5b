"""Wide residual networks for small images (Zagoruyko & Komodakis 2016), with the particularities of a common implementation."""

from torch import Tensor, nn

from compressbench.models.structure import Classifier, ClassifierKind, initialise_kaiming, make_classifier

STEM = 16
WIDTHS = (16, 32, 64)
LAST_MOMENTUM = 0.9


class WideBlock(nn.Module):
    """Two BN-ReLU-conv3x3 and a shortcut; convolutions have a bias, and the second one has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        out = self.conv1(self.relu1(self.bn1(x)))
        return self.conv2(self.relu2(self.bn2(out))) + self.shortcut(x)


class WideResNet(Classifier):
    """WRN-`depth`-`factor`: a 3x3 stem, three stages of (depth - 4) / 6 blocks, BN-ReLU, pool, classifier."""

    def __init__(
        self,
        depth: int = 16,
        factor: int = 2,
        in_channels: int = 3,
        classes: int = 10,
        classifier: ClassifierKind = "linear",
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"wide_resnet: depth must be 6n + 4 with n of 1 or more, not {depth}")
        inputs = STEM
        self.body = nn.Sequential()
        self.body.add_module("stem", nn.Conv2d(in_channels, inputs, 3, 1, 1))
        for s, width in enumerate(WIDTHS):
            stage = nn.Sequential()
            for b in range((depth - 4) // 6):
                stage.append(WideBlock(inputs, factor * width, 2 if s > 0 and b == 0 else 1))
                inputs = factor * width
            self.body.add_module(f"stage{s}", stage)
        self.body.add_module("bn", nn.BatchNorm2d(inputs, momentum=LAST_MOMENTUM))
        self.body.add_module("relu", nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier_kind = classifier
        self.classifier = make_classifier(classifier, inputs, classes)
        initialise_kaiming(self)

    def taps(self) -> tuple[str, ...]:
        """The first two stages, which end in a sum, and the last activation."""
        return ("body.stage0", "body.stage1", "body.relu")


ARCHITECTURES = {"wide_resnet": WideResNet}
