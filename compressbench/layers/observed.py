"""Activation quantizers on the observed range: minimum and maximum, widened in calibration, averaged in training."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from compressbench.layers.quantizers import Grid, Scheme, fake_quantize, make_grid
from compressbench.layers.registry import ActivationQuantizer, compressed_layer

AVERAGING = 0.1


@compressed_layer
class ObservedActivation(ActivationQuantizer):
    """Quantizes on [lower, upper], buffers; what never was negative gets the unsigned grid.

    Attributes:
        observing: pass the input through and widen the range to contain it (calibration).
        signed: part of the stored configuration; None until calibrated.

    In training mode the range moves by a tenth of the way to that of the batch; values outside it get no gradient.
    """

    kind: ClassVar[str] = "observed_activation"
    settings: ClassVar[tuple[str, ...]] = ("bits", "scheme", "signed")
    lower: Tensor
    upper: Tensor

    def __init__(self, bits: int, scheme: Scheme, signed: bool | None = None) -> None:
        super().__init__()
        self.bits, self.scheme, self.signed, self.observing = bits, scheme, signed, False
        self.register_buffer("lower", torch.tensor(0.0))
        self.register_buffer("upper", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, quantized."""
        if self.observing:
            self._widen(x.detach())
            return x
        if self.training:
            self.lower.lerp_(x.detach().min().to(self.lower), AVERAGING)
            self.upper.lerp_(x.detach().max().to(self.upper), AVERAGING)
        return fake_quantize(x, self.grid(), clip_gradient=True)

    def grid(self) -> Grid:
        """The grid on the present range."""
        return make_grid(self.lower, self.upper, self.bits, self.scheme, signed=self.signed is not False)

    def _widen(self, x: Tensor) -> None:
        self.lower.copy_(torch.minimum(self.lower, x.min()))
        self.upper.copy_(torch.maximum(self.upper, x.max()))

    def calibrated(self) -> None:
        """End of calibration: quantize from now on."""
        self.observing, self.signed = False, bool(self.lower < 0)


def observe(model: nn.Module, observing: bool) -> None:
    """Begin or end the calibration of every quantizer of this kind."""
    for module in model.modules():
        if isinstance(module, ObservedActivation):
            if observing:
                module.observing = True
            else:
                module.calibrated()
