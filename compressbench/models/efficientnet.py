"""EfficientNet-Lite (Tan & Le 2019, the variant for quantization): ReLU6 in place of swish, no squeeze-excite."""

from functools import partial

from torch import nn

from compressbench.models.mobilenet import InvertedResidualNet, Stage, Widths

# kernel, expansion factor, outputs, blocks, stride of the first block
_LITE0 = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


def efficientnet_lite0(in_channels: int = 3, classes: int = 1000, inner_widths: Widths = None) -> InvertedResidualNet:
    """ImageNet EfficientNet-Lite0 with TensorFlow's padding, for images whose side is a multiple of 32."""
    stages, inputs = [], 32
    for kernel, factor, outputs, count, stride in _LITE0:
        for b in range(count):
            first = stride if b == 0 else 1
            stages.append(Stage(kernel, factor * inputs, outputs, first, nn.ReLU6, expand=factor > 1, same=True))
            inputs = outputs
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    return InvertedResidualNet(
        32, stages, 1280, nn.ReLU6, norm, in_channels, classes, inner_widths=inner_widths, same=True
    )


ARCHITECTURES = {"efficientnet_lite0": efficientnet_lite0}
