"""The mean over all pixels, for networks that run without PyTorch in between."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from compressbench.kernels.native import Isa, Step, best_isa, kernel, output_for, program


class Mean(ctypes.Structure):
    """`cb_mean` of pooling.cpp."""

    _fields_ = (("channels", ctypes.c_int32), ("pixels", ctypes.c_int32))


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
