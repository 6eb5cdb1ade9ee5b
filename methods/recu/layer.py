"""The binary convolution of ReCU: standardise the latent weights, clamp them to Laplace quantiles, take the sign."""

import math

import torch
from torch import Tensor, nn

from compressbench.layers.binary import BinaryConv2d, standardise, standardised_sign, triangular_slope, with_slope
from compressbench.quantization.latent_weights import laplace_quantile, laplace_scale

GAIN = 2 * math.sqrt(2)  # the deviation of a Laplace law of scale 2


class RectifiedClampConv2d(BinaryConv2d):
    """Y = alpha conv2d(sign(A0), sign(clamp(W1, -Q(tau), Q(tau)))), only while it trains.

    alpha: [c_out], initially 1. tau: buffer, initially 1, which clamps nothing. The clamp never changes the sign: it cuts the
    direct gradient of the weights beyond Q.
    """

    alpha: nn.Parameter
    tau: Tensor

    def add_tensors(self) -> None:
        self.alpha = nn.Parameter(self.weight.new_ones(len(self.weight)))
        self.register_buffer("tau", torch.ones(()))

    def set_tau(self, tau: float) -> None:
        """ValueError outside (0.5, 1]: Q would not be positive."""
        if not 0.5 < tau <= 1:
            raise ValueError(f"tau must be in (0.5, 1], not {tau}")
        self.tau.fill_(tau)

    def standardised(self) -> Tensor:
        """W1: each filter at mean 0 and deviation 2 sqrt(2), with gradient."""
        return standardise(self.weight, GAIN)

    def clamped(self) -> Tensor:
        """bool, shape of the weight: |W1| > Q, where the direct gradient is cut."""
        w1 = self.standardised().detach()
        return w1.abs() > self._quantile(w1)

    def _quantile(self, w1: Tensor) -> Tensor:
        return laplace_quantile(laplace_scale(w1), self.tau)

    def weight_signs(self) -> Tensor:
        """sign(W2), the gradient passes the sign as it is."""
        w1 = self.standardised()
        q = self._quantile(w1)
        w2 = torch.clamp(w1, -q, q)
        return with_slope(w2, torch.where(w2 >= 0, 1.0, -1.0).to(w2), torch.ones_like)

    def input_signs(self, x: Tensor) -> Tensor:
        """Triangular gradient, at x over its deviation while training and at x itself in eval mode; sign(0) = 0."""
        if self.training:
            return standardised_sign(x, centred=False)
        return with_slope(x, torch.sign(x), triangular_slope)

    def scale(self) -> Tensor:
        """alpha."""
        return self.alpha
