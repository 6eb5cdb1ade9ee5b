"""The mean over all pixels, for networks that run without PyTorch in between."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compressbench.kernels.native import Isa, Mean, Step, best_isa, output_for, program


class GlobalMean:
    """y = mean of each channel of x [batch, channels, height, width], planned for one input size; fp32.

    Where the library could not be built, PyTorch computes it (`isa` TORCH).
    """

    def __init__(self, input_size: Sequence[int]) -> None:
        self.isa = best_isa()
        channels, height, width = map(int, input_size)
        self.input_shape, self.output_shape = (channels, height, width), (channels, 1, 1)
        self._layer = Mean(channels, height * width)

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, channels, 1, 1]."""
        out = output_for(x, self.input_shape, self.output_shape, None)
        if self.isa is Isa.TORCH:
            return torch.mean(x, (2, 3), keepdim=True, out=out)
        program(self.isa, [self.step(x, out)])()
        return out

    def step(self, x: Tensor, out: Tensor) -> Step:
        """The call on these tensors, which must fit, for `native.program`."""
        return Step.on(2, self._layer, x, out)
