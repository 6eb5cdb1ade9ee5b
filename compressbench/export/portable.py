"""What of a compressed network leaves the suite: its deployed form, with the normalisation of its input."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressbench.data.preprocessing import Preprocessing
from compressbench.layers.deployment import deploy, simulated_kinds
from compressbench.runtimes.integer import NoIntegerForm, has_codes, integer_network

Arithmetic = Literal["fp32", "int8", "simulated"]


class Normalised(nn.Module):
    """A network that reads pixels of [0, 1] as they are decoded."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 [N, C, H, W] -> what the network gives for the normalised images."""
        return self.network((pixels - self.mean) / self.std)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Portable:
    """A network that is ready to be written.

    arithmetic: "int8" has weights and activations as integers with the method's own scales, "simulated" the quantizers (or
    signs) as floating-point operations, and "fp32" none of either.
    """

    network: nn.Module
    arithmetic: Arithmetic

    @property
    def exact(self) -> bool:
        """Whether its outputs differ from the model's by rounding alone: no quantizer turns the last bit into a step."""
        return self.arithmetic == "fp32"


def portable(model: nn.Module, preprocessing: Preprocessing) -> Portable:
    """A deployed copy of `model`: zeros in the place of masks, batch norms folded, quantized layers as integers."""
    network, arithmetic = _deployed(model)
    if not preprocessing.is_raw:
        network = Normalised(network, preprocessing.mean, preprocessing.std)
    return Portable(network.eval().requires_grad_(False), arithmetic)


def _deployed(model: nn.Module) -> tuple[nn.Module, Arithmetic]:
    if any(has_codes(layer) for layer in model.modules()):
        try:
            return integer_network(model), "int8"
        except NoIntegerForm:
            pass
    return deploy(model), "simulated" if simulated_kinds(model) else "fp32"
