"""Depthwise convolution on the CPU: most of the time of a network whose pointwise convolutions are sparse."""

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels.block_sparse import INFINITY
from compressbench.kernels.native import (
    Isa,
    Step,
    best_isa,
    kernel,
    output_for,
    output_size,
    per_channel,
    program,
    runnable,
)

KERNELS = (3, 5)
STRIDES = (1, 2)


class Depthwise(ctypes.Structure):
    """`cb_depthwise` of depthwise.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("channels", "height", "width", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding")),
        *((name, ctypes.c_void_p) for name in ("weights", "bias")),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    )


class DepthwiseConv2d:
    """y = clip(conv2d(x, W, groups=channels) + bias), planned for one input size; fp32, NCHW.

    weight: [channels, 1, k, k], k 3 or 5. input_size: (channels, height, width). stride: 1 or 2. clip: (low, high), (0, 6)
    for ReLU6. Where the library could not be built, PyTorch computes the same (`isa` TORCH).
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        input_size: Sequence[int],
        *,
        stride: int = 1,
        padding: int = 0,
        clip: tuple[float, float] = (-INFINITY, INFINITY),
        isa: Isa | None = None,
    ) -> None:
        self.isa = runnable(isa, best_isa())
        channels, height, width = map(int, input_size)
        size = weight.shape[-1]
        if weight.shape != (channels, 1, size, size) or size not in KERNELS or stride not in STRIDES:
            raise ValueError(
                f"weight {tuple(weight.shape)} with stride {stride}: the depthwise kernel wants [{channels}, 1, k, k], "
                "k 3 or 5, and stride 1 or 2"
            )
        out_height, out_width = output_size(height, width, size, stride, padding)
        self.input_shape, self.output_shape = (channels, height, width), (channels, out_height, out_width)
        self.clip = clip
        self._weight = weight.detach().float().contiguous()
        self._bias = per_channel("bias", bias, channels, 0.0)
        self._torch = functools.partial(
            F.conv2d, weight=self._weight, bias=self._bias, stride=stride, padding=padding, groups=channels
        )
        self.layer = Depthwise(
            channels, height, width, out_height, out_width, size, stride, padding, self._weight.data_ptr(),
            self._bias.data_ptr(), *clip,
        )  # fmt: skip

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [batch, channels, height, width] -> [batch, channels, out_height, out_width], in `out` where given."""
        out = output_for(x, self.input_shape, self.output_shape, out)
        if self.isa is Isa.TORCH:
            return torch.clamp(self._torch(x), *self.clip, out=out)
        program([self.step(x, out)])()
        return out

    def step(self, x: Tensor, out: Tensor) -> Step:
        """The call on these tensors, which must fit, for `native.program`."""
        return Step.on(kernel("depthwise", self.isa), self.layer, x, out, owner=self)
