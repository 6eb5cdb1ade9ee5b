"""The mean over windows, for networks that run without PyTorch in between."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels.native import Isa, Step, best_isa, kernel, output_for, program


class AveragePool(ctypes.Structure):
    """`cb_average_pool` of average_pool.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in ("channels", "height", "width", "out_height", "out_width", "kernel", "stride")
    )


class AveragePool2d:
    """y = mean over windows of each channel of x [batch, channels, height, width], planned for one input size; fp32.

    Without padding. ceil: windows begin as long as one pixel is left, and their mean is that of the pixels inside.
    Where the library could not be built, PyTorch computes it (`isa` TORCH).
    """

    def __init__(self, input_size: Sequence[int], kernel: int, stride: int, ceil: bool = False) -> None:
        self.isa = best_isa()
        self._geometry = {"kernel_size": kernel, "stride": stride, "ceil_mode": ceil}
        pooled = F.avg_pool2d(torch.empty(1, *input_size, device="meta"), **self._geometry)  # type: ignore[arg-type]
        self.input_shape, self.output_shape = tuple(map(int, input_size)), tuple(pooled.shape[1:])
        self._layer = AveragePool(*self.input_shape, *self.output_shape[1:], kernel, stride)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[batch, channels, height, width] -> [batch, channels, out_height, out_width], in `out` where given."""
        out = output_for(x, self.input_shape, self.output_shape, out)
        if self.isa is Isa.TORCH:
            return out.copy_(F.avg_pool2d(x, **self._geometry))  # type: ignore[arg-type]
        program([self.step(x, out)])()
        return out

    def step(self, x: Tensor, out: Tensor) -> Step:
        """The call on these tensors, which must fit, for `native.program`."""
        return Step.on(kernel("average_pool", self.isa), self._layer, x, out)
