"""The binary convolution of SiMaN: a bit says whether the magnitude of a weight is among the larger half of its filter."""

import torch
from torch import Tensor, nn

from compressbench.layers.binary import BinaryConv2d, standardise, standardised_sign, with_slope
from compressbench.layers.quantizers import percentile


class MagnitudeConv2d(BinaryConv2d):
    """Y = alpha conv2d(sign(A1), 2B - 1), only while it trains.

    alpha: [c_out]. B: the buffer `magnitude_bits`, set by every forward pass in training mode and left alone in eval mode.
    p: buffer, percent of the layer's weights in each tail that the projection of the latent weights cuts or raises.
    project_in_evaluation: whether it also runs in eval mode, as in the authors' code; outputs do not depend on it.
    """

    alpha: nn.Parameter
    magnitude_bits: Tensor
    p: Tensor
    centred = True
    project_in_evaluation = False

    def add_tensors(self) -> None:
        self.alpha = nn.Parameter(self.weight.detach().abs().mean((1, 2, 3)))
        self.register_buffer("magnitude_bits", self.weight.detach() > 0)
        self.register_buffer("p", torch.zeros(()))

    def set_p(self, p: float) -> None:
        """ValueError outside [0, 50)."""
        if not 0 <= p < 50:
            raise ValueError(f"p must be in [0, 50) percent, not {p}")
        self.p.fill_(p)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> as the convolution it replaces; projects the latent weights and renews B before, in training mode."""
        if self.training or self.project_in_evaluation:
            project(self.weight, float(self.p))
        if self.training:
            self.magnitude_bits.copy_(median_bits(standardise(self.weight.detach()).abs()))
        return super().forward(x)

    def weight_signs(self) -> Tensor:
        """2B - 1, with the gradient of the magnitudes while training."""
        signs = 2 * self.magnitude_bits.to(self.weight) - 1
        if not self.training:
            return signs
        magnitudes = standardise(self.weight).abs()
        return with_slope(magnitudes, signs, torch.ones_like)

    def input_signs(self, x: Tensor) -> Tensor:
        """sign(A - mean of the sample), with the triangular gradient; sign(0) = 0."""
        return standardised_sign(x, centred=True)

    def scale(self) -> Tensor:
        """alpha."""
        return self.alpha


@torch.no_grad()
def project(weight: Tensor, p: float) -> None:
    """W <- clamp(|C|, lo, hi) sign(C), C centred per filter; lo, hi: percentiles p and 100 - p of |C| of the layer."""
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    magnitudes = centred.abs()
    low, high = (percentile(magnitudes, q) for q in (p, 100 - p))
    weight.copy_(magnitudes.clamp(low, high) * centred.sign())


def median_bits(magnitudes: Tensor) -> Tensor:
    """bool, shape of [c_out, ...]: larger than the (lower) median of the filter; floor(n / 2) ones without ties."""
    flat = magnitudes.flatten(1)
    middle = (flat.shape[1] + 1) // 2
    median = flat.kthvalue(middle, 1, keepdim=True).values  # torch.median has no deterministic form on CUDA
    return (flat > median).reshape(magnitudes.shape)
