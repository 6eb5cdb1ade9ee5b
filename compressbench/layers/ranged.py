"""Convolutions whose weight passes a quantizer in every forward pass, its range recomputed from the weight itself."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compressbench.layers.bounds import dual_bounds_levels, percentiles, quantize_weight
from compressbench.layers.quantizers import straight_through, symmetric_parameters
from compressbench.layers.registry import ReplacedLayer, compressed_layer

WeightRange = Literal["percentile", "minmax", "symmetric"]


class WeightQuantizedConv2d(ReplacedLayer, nn.Conv2d):
    """Base: a convolution with `effective_weight`, of `weight_bits`, that reads `input_bits` wide numbers.

    32 bits: the weight itself.
    """

    weight_bits: int
    input_bits: int
    settings: ClassVar[tuple[str, ...]] = ("weight_bits", "input_bits")

    def quantize(self, weight: Tensor) -> Tensor:
        """The weight on its grid, with its gradient."""
        raise NotImplementedError

    def weight_step(self) -> Tensor:
        """From one value of the quantized weight to the next, a scalar."""
        raise NotImplementedError

    def effective_weight(self) -> Tensor:
        """The weight that the forward pass uses."""
        return self.weight if self.weight_bits == 32 else self.quantize(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> as the convolution it replaces."""
        return self._conv_forward(x, self.effective_weight(), self.bias)


@compressed_layer
class RangedConv2d(WeightQuantizedConv2d):
    """One range for the whole weight, nothing trained, no gradient through the range.

    `weight_range`: percentile (DDTB: the 1st and 99th), minmax, or symmetric (± the largest magnitude, 2^bits - 1 levels used).
    """

    kind: ClassVar[str] = "ranged_conv2d"
    settings: ClassVar[tuple[str, ...]] = ("weight_bits", "input_bits", "weight_range", "percentile")
    weight_range: WeightRange
    percentile: float

    def quantize(self, weight: Tensor) -> Tensor:
        """Gradient 1 in the range, bounds included; 0 for clipped weights."""
        values = weight.detach()
        if self.weight_range == "symmetric":
            scale = self.weight_step()
            return straight_through(weight, torch.round(values / scale) * scale)
        return quantize_weight(weight, *self._bounds(values), self.weight_bits)

    @property
    def stored_bits(self) -> int:
        """Bits of a stored weight: one more than `weight_bits` where the range is ± one number and has 2^bits + 1 levels."""
        if self.weight_range == "symmetric" or self.weight_bits == 32 or self.weight.is_meta:
            return self.weight_bits
        levels = dual_bounds_levels(*self._bounds(self.weight.detach()), self.weight_bits)
        return self.weight_bits + bool(levels > 2**self.weight_bits)

    def weight_step(self) -> Tensor:
        values = self.weight.detach()
        if self.weight_range == "symmetric":
            return symmetric_parameters(values.abs().max(), self.weight_bits)[0]
        upper, lower = self._bounds(values)
        return (upper - lower) / (2**self.weight_bits - 1)

    def _bounds(self, values: Tensor) -> tuple[Tensor, Tensor]:
        percent = 100.0 if self.weight_range == "minmax" else self.percentile
        return (values.max(), values.min()) if percent == 100.0 else percentiles(values, percent)
