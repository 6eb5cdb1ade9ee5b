"""Quantized weights as they are stored: `bits` bits a weight without gaps, a step and a lowest value beside them."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from compressbench.accounting import stored_bits
from compressbench.layers.quantizers import positive


@runtime_checkable
class QuantizedWeight(Protocol):
    """A layer whose weight lies on a grid with `weight_bits`."""

    weight_bits: int

    def effective_weight(self) -> Tensor:
        """The quantized weight that the forward pass uses."""
        ...

    def weight_step(self) -> Tensor:
        """From one value of the grid to the next: [channels, 1, ...], or a scalar."""
        ...


class PackedWeight(NamedTuple):
    """weight = low + step * q, and q, 0 <= q < 2^bits, packed."""

    packed: Tensor
    """uint8 [ceil(weights * bits / 8)]; weight i has bits i * bits and following, the lowest first."""
    low: Tensor
    """float32 [channels, 1, ...], or a scalar: the smallest weight."""
    step: Tensor
    """As `low`."""
    bits: int
    shape: torch.Size

    def codes(self) -> Tensor:
        """q: uint8 [shape]."""
        bits = np.unpackbits(self.packed.numpy(), bitorder="little", count=self.shape.numel() * self.bits)
        weights = np.packbits(bits.reshape(-1, self.bits), axis=1, bitorder="little")
        return torch.from_numpy(weights).reshape(self.shape)

    def weight(self) -> Tensor:
        """float32 [shape]."""
        return self.low + self.step * self.codes()


@torch.no_grad()
def pack_weight(layer: QuantizedWeight) -> PackedWeight:
    """The weight of a layer with at most 8 bits, in its `accounting.stored_bits`.

    ValueError when it is not finite, or not on the grid that the layer claims. Every channel is judged by its own step. One of
    a single value (dead, or constant) is stored as `low`, whatever its step.
    """
    weight, step, bits = layer.effective_weight().detach(), layer.weight_step().detach(), stored_bits(layer)
    if not 1 <= bits <= 8:
        raise ValueError(f"weights of {bits} bits cannot be packed: 1 to 8 bits can")
    if not weight.isfinite().all():
        raise ValueError("weights that are not finite cannot be packed")
    low = weight.amin() if step.dim() == 0 else weight.flatten(1).amin(1).reshape(step.shape)
    # Clamped, as a step of a few units in the last place of `low` may be counted once too often.
    q = torch.round((weight - low) / positive(step)).clamp(max=2**bits - 1)
    error = (low + step * q - weight).abs()
    if not bool((error <= 1e-4 * weight.abs() + 1e-3 * step).all()):
        raise ValueError(f"the weights do not lie on a grid of {bits} bits")
    unpacked = np.unpackbits(q.to(torch.uint8).numpy().reshape(-1, 1), axis=1, bitorder="little", count=bits)
    return PackedWeight(torch.from_numpy(np.packbits(unpacked, bitorder="little")), low, step, bits, weight.shape)


def packed_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with every weight of at most 8 bits packed: NAME.packed, NAME.low, NAME.step for NAME.weight."""
    tensors = dict(model.state_dict())
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedWeight) and layer.weight_bits <= 8:
            stored = pack_weight(layer)
            del tensors[f"{name}.weight"]
            tensors |= {f"{name}.{part}": getattr(stored, part) for part in ("packed", "low", "step")}
    return tensors
