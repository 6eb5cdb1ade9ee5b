"""Pooling, for networks that run without PyTorch in between: the mean over all pixels, the maximum over windows."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels.native import Isa, Step, best_isa, kernel, output_for, output_size, program


class Mean(ctypes.Structure):
    """`cb_mean` of pooling.cpp."""

    _fields_ = (("channels", ctypes.c_int32), ("pixels", ctypes.c_int32))


class MaxPool(ctypes.Structure):
    """`cb_max_pool` of pooling.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in ("channels", "height", "width", "out_height", "out_width", "kernel", "stride", "padding")
    )


WORKSPACE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(MaxPool), ctypes.c_int32)


class GlobalMean:
    """y = mean of each channel of x [batch, channels, height, width], planned for one input size; fp32.

    Where the library could not be built, PyTorch computes it (`isa` TORCH).
    """

    def __init__(self, input_size: Sequence[int]) -> None:
        self.isa = min(best_isa(), Isa.PORTABLE)
        channels, height, width = map(int, input_size)
        self.input_shape, self.output_shape = (channels, height, width), (channels, 1, 1)
        self._layer = Mean(channels, height * width)

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, channels, 1, 1]."""
        out = output_for(x, self.input_shape, self.output_shape, None)
        if self.isa is Isa.TORCH:
            return torch.mean(x, (2, 3), keepdim=True, out=out)
        program([self.step(x, out)])()
        return out

    def step(self, x: Tensor, out: Tensor) -> Step:
        """The call on these tensors, which must fit, for `native.program`."""
        return Step.on(kernel("global_mean", self.isa), self._layer, x, out)


class MaxPool2d:
    """y = maximum over windows of each channel of x [batch, channels, height, width], planned for one input size; fp32.

    padding: at most half the kernel, as PyTorch's. Where the library could not be built, PyTorch computes it (`isa` TORCH).
    """

    def __init__(self, input_size: Sequence[int], kernel: int, stride: int, padding: int = 0) -> None:
        self.isa = best_isa()
        channels, height, width = map(int, input_size)
        if 2 * padding > kernel:
            raise ValueError(f"padding {padding} is more than half the kernel {kernel}")
        out_height, out_width = output_size(height, width, kernel, stride, padding)
        self.input_shape, self.output_shape = (channels, height, width), (channels, out_height, out_width)
        self._geometry = (kernel, stride, padding)
        self._layer = MaxPool(channels, height, width, out_height, out_width, kernel, stride, padding)
        self._workspace = torch.empty(0)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[batch, channels, height, width] -> [batch, channels, out_height, out_width], in `out` where given."""
        out = output_for(x, self.input_shape, self.output_shape, out)
        if self.isa is Isa.TORCH:
            return out.copy_(F.max_pool2d(x, *self._geometry))
        program([self.step(x, out)])()
        return out

    def step(self, x: Tensor, out: Tensor) -> Step:
        """The call on these tensors, which must fit, for `native.program` with the present number of threads."""
        needed = kernel("max_pool_workspace", self.isa, WORKSPACE)(self._layer, torch.get_num_threads())
        if self._workspace.numel() < needed:
            self._workspace = torch.empty(needed)
        return Step.on(kernel("max_pool", self.isa), self._layer, x, out, self._workspace, owner=self)
