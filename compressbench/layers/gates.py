"""DDTB's gate: from a sample's pooled features to two factors for its bounds, in 2-bit arithmetic."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.layers.quantizers import straight_through

GateGradient = Literal["detached", "straight_through"]
GATE_BITS = 2
HIDDEN = 32


@torch.no_grad()
def _four_levels(x: Tensor, per_sample: bool) -> Tensor:
    low, high = (x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)) if per_sample else (x.min(), x.max())
    s = (2**GATE_BITS - 1) / (high - low)
    z = torch.round(s * low)
    return torch.where(high > low, (torch.round(s * x - z) + z) / s, x)  # a constant has no range: leave it


def quantize_gate_input(x: Tensor, gradient: GateGradient = "detached", per_sample: bool = False) -> Tensor:
    """A2: [N, C, 1, 1] on 4 levels between the minimum and the maximum of the whole batch, or of each sample.

    No gradient in the authors' program (`detached`); `straight_through` is the variant.
    """
    quantized = _four_levels(x, per_sample)
    return quantized if gradient == "detached" else straight_through(x, quantized)


def ternary(weight: Tensor) -> Tensor:
    """T2: {-m, 0, m} with m = max|w| + 1e-8, gradient straight through."""
    m = weight.detach().abs().max() + 1e-8
    return straight_through(weight, torch.round(weight.detach() / m) * m)


class TernaryConv2d(nn.Conv2d):
    """1x1 convolution without bias of A2(input) with T2(weight).

    In eval mode the ranges of A2 are each sample's own: the same as batch 1, so that results do not depend on the batch.
    """

    weight_bits = input_bits = GATE_BITS

    def __init__(self, inputs: int, outputs: int, gradient: GateGradient) -> None:
        super().__init__(inputs, outputs, 1, bias=False)  # torch's own start is uniform ±1/sqrt(fan-in)
        self.gradient: GateGradient = gradient

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, 1, 1] -> [N, outputs, 1, 1]."""
        return F.conv2d(quantize_gate_input(x, self.gradient, per_sample=not self.training), ternary(self.weight))


class Gate(nn.Module):
    """logit = conv2(A2(relu(BN(conv1(A2(global average pool of x)))))); beta = 2·sigmoid(logit): channel 0 upper, 1 lower."""

    def __init__(self, channels: int, gradient: GateGradient = "detached") -> None:
        super().__init__()
        self.conv1 = TernaryConv2d(channels, HIDDEN, gradient)
        self.bn = nn.BatchNorm2d(HIDDEN)
        self.relu = nn.ReLU()
        self.conv2 = TernaryConv2d(HIDDEN, 2, gradient)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> logits [N, 2, 1, 1]."""
        context = x.detach().mean((2, 3), keepdim=True)
        return self.conv2(self.relu(self.bn(self.conv1(context))))


def gate_size(channels: int) -> dict[str, Any]:
    """{"values", "macs"} of one gate: 32·C + 64 convolution weights and 64 of the batch norm; MACs per image."""
    convolutions = HIDDEN * channels + HIDDEN * 2
    return {"values": convolutions + 2 * HIDDEN, "macs": convolutions}
