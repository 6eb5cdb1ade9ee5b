"""What networks of uint8 codes need beside `block_int8`: rounding to codes, depthwise convolutions, and maxima."""

import ctypes
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels.block_int8 import fused_multiply_add
from compressbench.kernels.native import (
    Isa,
    Step,
    best_isa,
    check_tensor,
    kernel,
    output_size,
    per_channel,
    program,
    runnable,
)

SIZES = ("channels", "height", "width", "out_height", "out_width", "kernel", "stride", "padding")
EXACT = 2**24


class QuantizeLayer(ctypes.Structure):
    """`cb_quantize` of codes.cpp."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("zero", ctypes.c_int32),
        ("high", ctypes.c_int32),
    )


class DepthwiseLayer(ctypes.Structure):
    """`cb_depthwise_int8` of codes.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in SIZES),
        *((name, ctypes.c_void_p) for name in ("weights", "start", "scale", "bias")),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        ("zero", ctypes.c_int32),
    )


class MaxLayer(ctypes.Structure):
    """`cb_max_codes` of codes.cpp."""

    _fields_ = tuple((name, ctypes.c_int32) for name in SIZES)


class _OfCodes:
    """An operation with one input and a uint8 output, planned for one input size; in PyTorch without the library."""

    name: ClassVar[str]
    reads: ClassVar[torch.dtype] = torch.uint8
    dtype = torch.uint8
    isa: Isa
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    _layer: ctypes.Structure

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, ...] -> uint8 [batch, ...]."""
        check_tensor("x", x, (x.shape[0], *self.input_shape), self.reads)
        if self.isa is Isa.TORCH:
            return self._in_torch(x)
        out = torch.empty((x.shape[0], *self.output_shape), dtype=torch.uint8)
        program([self.step(x, out)])()
        return out

    def step(self, x: Tensor, out: Tensor) -> Step:
        """The call on these tensors, which must fit, for `native.program`."""
        return Step.on(kernel(self.name, self.isa), self._layer, x, out, owner=self)

    def _in_torch(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Quantize(_OfCodes):
    """codes = clip(round(x / scale) + zero_point, 0, high) of x fp32, rounded half to even; NaN becomes 0."""

    name = "quantize"
    reads = torch.float32

    def __init__(self, shape: Sequence[int], scale: float, zero_point: int, high: int, isa: Isa | None = None) -> None:
        self.isa = runnable(isa, best_isa())
        self.input_shape = self.output_shape = tuple(shape)
        self._layer = QuantizeLayer(torch.Size(shape).numel(), scale, zero_point, high)

    def _in_torch(self, x: Tensor) -> Tensor:
        layer = self._layer
        codes = (x / torch.tensor(layer.scale)).round() + layer.zero
        return codes.nan_to_num(0.0, torch.inf, -torch.inf).clamp(0, layer.high).to(torch.uint8)


class DepthwiseInt8Conv2d(_OfCodes):
    """A convolution with one filter per channel: codes = clip(round(conv2d(x - zero_point, W) * scale + bias)).

    weight: int8 [channels, 1, k, k]. scale, bias: float [channels], with the step and the zero point of the output. The sums
    are exact, the multiply-add is rounded once to fp32, its result half to even. In the padding x is the zero point.
    """

    name = "depthwise_int8"

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        input_size: Sequence[int],
        *,
        stride: int = 1,
        padding: int = 0,
        zero_point: int = 0,
        clip: tuple[int, int] = (0, 255),
        isa: Isa | None = None,
    ) -> None:
        self.isa = runnable(isa, best_isa())
        channels, height, width = map(int, input_size)
        side = weight.shape[-1]
        if weight.shape != (channels, 1, side, side) or weight.dtype != torch.int8:
            raise ValueError(f"weights must be int8 [{channels}, 1, k, k], not {weight.dtype} {tuple(weight.shape)}")
        if 255 * side**2 * 128 >= EXACT:
            raise ValueError(f"sums of {side}x{side} products do not fit fp32")
        if not (0 <= zero_point <= 255 and 0 <= clip[0] <= clip[1] <= 255):
            raise ValueError(f"zero point {zero_point} or bounds {clip} are no codes of uint8")
        out_height, out_width = output_size(height, width, side, stride, padding)
        self.input_shape, self.output_shape = (channels, height, width), (channels, out_height, out_width)
        self._weight = weight.float().contiguous()
        self._start = -zero_point * self._weight.flatten(1).sum(1)
        self._scale, self._bias = per_channel("scale", scale, channels, 1.0), per_channel("bias", bias, channels, 0.0)
        tensors = self._weight, self._start, self._scale, self._bias
        self._layer = DepthwiseLayer(
            channels, height, width, out_height, out_width, side, stride, padding,
            *(tensor.data_ptr() for tensor in tensors), *clip, zero_point,
        )  # fmt: skip

    def _in_torch(self, x: Tensor) -> Tensor:
        layer = self._layer
        padded = F.pad(x.double() - layer.zero, (layer.padding,) * 4)
        sums = F.conv2d(padded, self._weight.double(), stride=layer.stride, groups=layer.channels)
        scale, bias = (values[:, None, None] for values in (self._scale, self._bias))
        return fused_multiply_add(sums.float(), scale, bias).round().clamp(layer.low, layer.high).to(torch.uint8)


class MaxPoolCodes(_OfCodes):
    """The maximum over windows of uint8 codes; padding, at most half the kernel, takes no part."""

    name = "max_codes"

    def __init__(
        self, input_size: Sequence[int], side: int, stride: int, padding: int = 0, isa: Isa | None = None
    ) -> None:
        self.isa = runnable(isa, best_isa())
        channels, height, width = map(int, input_size)
        if 2 * padding > side:
            raise ValueError(f"padding {padding} is more than half the kernel {side}")
        out_height, out_width = output_size(height, width, side, stride, padding)
        self.input_shape, self.output_shape = (channels, height, width), (channels, out_height, out_width)
        self._layer = MaxLayer(channels, height, width, out_height, out_width, side, stride, padding)

    def _in_torch(self, x: Tensor) -> Tensor:
        layer = self._layer
        return F.max_pool2d(x.float(), layer.kernel, layer.stride, layer.padding).to(torch.uint8)
