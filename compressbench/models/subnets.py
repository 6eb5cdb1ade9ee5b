"""The subnets of a MobileNet: an input resolution and a width multiplier per stage, and the resulting layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.mobilenet import InvertedResidual, InvertedResidualNet, MobileNetV1, SeparableBlock, Stage
from compressbench.models.structure import conv_unit, submodule

DIVISOR = 8
Kind = Literal["stem", "separable", "inverted", "head", "linear"]
Key = tuple[str, int, int, int, int, int, int, int]


class Subnet(NamedTuple):
    """A structure: the side of the square input, and a width multiplier per stage."""

    resolution: int
    widths: tuple[float, ...]


def rounded_channels(channels: Tensor) -> Tensor:
    """float64 [N] -> int64 [N]: the nearest multiple of 8 that is not more than 10 % smaller."""
    rounded = ((channels + DIVISOR / 2).floor().long() // DIVISOR * DIVISOR).clamp_min(DIVISOR)
    return torch.where(rounded < 0.9 * channels, rounded + DIVISOR, rounded)


@dataclass(frozen=True)
class Block:
    """One block of N structures; sizes and channels are int64 [N]."""

    kind: Kind
    name: str
    stride: int
    expand: bool
    size: Tensor
    """Side of its input."""
    inputs: Tensor
    expanded: Tensor
    outputs: Tensor

    @property
    def kernel(self) -> int:
        """Of its spatial convolution."""
        return 1 if self.kind in ("head", "linear") else 3

    @property
    def size_out(self) -> Tensor:
        """Side of its output."""
        return (self.size + self.stride - 1) // self.stride

    def macs(self) -> Tensor:
        """Multiply-accumulates [N]; the classifier's include the global average pooling before it."""
        inputs, expanded, outputs = self.inputs, self.expanded, self.outputs
        before, after = self.size**2, self.size_out**2
        if self.kind == "stem":
            return 9 * inputs * outputs * after
        if self.kind == "head":
            return inputs * outputs * before
        if self.kind == "linear":
            return inputs * before + inputs * outputs
        expansion = inputs * expanded * before if self.expand else 0
        return expansion + (9 + outputs) * expanded * after

    def channels(self) -> dict[str, tuple[int, int]]:
        """Layer -> (inputs, outputs) of its convolutions, for N = 1."""
        inputs, expanded, outputs = (int(c) for c in (self.inputs, self.expanded, self.outputs))
        if self.kind in ("stem", "head"):
            return {f"{self.name}.conv": (inputs, outputs)}
        if self.kind == "linear":
            return {self.name: (inputs, outputs)}
        depthwise = {f"{self.name}.depthwise.conv": (expanded, expanded)}
        if self.kind == "separable":
            return depthwise | {f"{self.name}.pointwise.conv": (expanded, outputs)}
        expansion = {f"{self.name}.expand.conv": (inputs, expanded)} if self.expand else {}
        return expansion | depthwise | {f"{self.name}.project.conv": (expanded, outputs)}

    def table_keys(self) -> list[Key]:
        """What decides the latency: (kind, input size, in, out, expanded, kernel, stride, padding), N times."""
        numbers = torch.stack([self.size, self.inputs, self.outputs, self.expanded], 1).tolist()
        padding = self.kernel // 2
        return [(self.kind, *row, self.kernel, self.stride, padding) for row in numbers]


def block_of(key: Key, activation: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """An untrained block of a network with this activation, and its input [1, C, H, W]."""
    kind, size, inputs, outputs, expanded, kernel, stride, _ = key
    example = torch.randn(1, inputs, size, size)
    if kind in ("stem", "head"):
        return conv_unit(inputs, outputs, kernel, stride, activation=activation), example
    if kind == "separable":
        return SeparableBlock(inputs, outputs, stride, activation), example
    if kind == "linear":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs)), example
    stage = Stage(3, expanded, outputs, stride, activation, expand=expanded != inputs)
    return InvertedResidual("block", inputs, stage, nn.BatchNorm2d, None), example


class _Part(NamedTuple):
    kind: Kind
    name: str
    base: int
    """Output channels at full width."""
    stage: int | None
    """Which multiplier scales it; None: none does."""
    stride: int = 1
    expansion: int = 1
    expand: bool = False


class Layout:
    """How the structures of a MobileNet-V1 or V2 become layers.

    V1 has a multiplier for the stem and one per pointwise convolution. V2 has one for the stem, one per stage (blocks of
    equal output width, so that shortcuts always match), and one for the head, which does nothing: the authors never scale
    the head. A depthwise convolution is as wide as its input, and an expansion follows the width of its actual input.
    """

    def __init__(self, network: nn.Module):
        if isinstance(network, MobileNetV1):
            parts, self.stages = _v1(network)
        elif isinstance(network, InvertedResidualNet) and network.hidden is None:
            parts, self.stages = _v2(network)
        else:
            raise UserError(f"{type(network).__name__} has no switchable widths; choose a MobileNet-V1 or V2.")
        if not isinstance(network.classifier, nn.Linear):
            raise UserError("a switchable network needs the linear classifier; set classifier: linear.")
        self.parts = [*parts, _Part("linear", "classifier", network.classifier.out_features, None)]
        self.in_channels = submodule(network, "stem.conv", nn.Conv2d).in_channels
        self.activation = type(network.get_submodule("stem.act"))

    def blocks(self, resolutions: Tensor, widths: Tensor) -> list[Block]:
        """The blocks of N structures: int64 [N] and float64 [N, stages]."""
        size, inputs = resolutions, torch.full_like(resolutions, self.in_channels)
        blocks = []
        for part in self.parts:
            if part.stage is None:
                outputs = torch.full_like(resolutions, part.base)
            else:
                outputs = rounded_channels(part.base * widths[:, part.stage])
            expanded = rounded_channels(part.expansion * inputs.double()) if part.expand else inputs
            block = Block(part.kind, part.name, part.stride, part.expand, size, inputs, expanded, outputs)
            blocks.append(block)
            size, inputs = block.size_out, outputs
        return blocks

    def of(self, subnet: Subnet) -> list[Block]:
        """The blocks of one structure."""
        if len(subnet.widths) != self.stages:
            raise ValueError(f"a structure needs {self.stages} width multipliers, not {len(subnet.widths)}")
        return self.blocks(*as_tensors([subnet]))

    def channels(self, subnet: Subnet) -> dict[str, tuple[int, int]]:
        """Layer -> (inputs, outputs) of one structure."""
        return {name: pair for block in self.of(subnet) for name, pair in block.channels().items()}

    def macs(self, resolutions: Tensor, widths: Tensor) -> Tensor:
        """Multiply-accumulates [N] of convolutions, global average pooling and classifier."""
        blocks = self.blocks(resolutions, widths)
        return torch.stack([block.macs() for block in blocks]).sum(0)


def as_tensors(subnets: Sequence[Subnet]) -> tuple[Tensor, Tensor]:
    """Resolutions int64 [N] and multipliers float64 [N, stages]."""
    return (
        torch.tensor([subnet.resolution for subnet in subnets], device="cpu"),
        torch.tensor([subnet.widths for subnet in subnets], dtype=torch.float64, device="cpu"),
    )


def _v1(network: Any) -> tuple[list[_Part], int]:
    parts = [_Part("stem", "stem", network.stem.conv.out_channels, 0, network.stem.conv.stride[0])]
    for i, block in enumerate(network.blocks):
        width, stride = block.pointwise.conv.out_channels, block.depthwise.conv.stride[0]
        parts.append(_Part("separable", f"blocks.{i}", width, i + 1, stride))
    return parts, len(parts)


def _v2(network: Any) -> tuple[list[_Part], int]:
    stem = network.stem.conv
    parts = [_Part("stem", "stem", stem.out_channels, 0, stem.stride[0])]
    stage, previous = 0, 0
    for i, block in enumerate(network.blocks):
        depthwise, width = block.depthwise.conv, block.project.conv.out_channels
        if block.squeeze is not None or block.shortcut is not None or depthwise.kernel_size != (3, 3):
            raise UserError(
                "a switchable MobileNet-V2 has 3x3 kernels, no squeeze-excite and no shortcut convolutions; "
                "use its standard variant."
            )
        stage += width != previous
        expansion = 1 if block.expand is None else depthwise.in_channels // block.expand.conv.in_channels
        parts.append(
            _Part("inverted", f"blocks.{i}", width, stage, depthwise.stride[0], expansion, block.expand is not None)
        )
        previous = width
    return [*parts, _Part("head", "last", network.last.conv.out_channels, None)], stage + 2
