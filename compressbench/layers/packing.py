"""Quantized weights as they are stored: `bits` bits a weight without gaps, a step and a lowest value beside them.

Of a weight with 1xN blocks only the kept blocks are stored, with the column of each, where that takes fewer bytes.
"""

from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from compressbench.accounting import layer_bytes, stored_bits
from compressbench.layers.quantized import QuantMaskedConv2d, QuantMaskedLinear
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

    @property
    def replaces(self) -> tuple[str, ...]:
        """The layer's tensors that follow from it."""
        return ("weight",)

    def codes(self) -> Tensor:
        """q: uint8 [shape]."""
        return _unpacked(self.packed, self.shape.numel(), self.bits).reshape(self.shape)

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
    return PackedWeight(_packed(q, bits), low, step, bits, weight.shape)


class PackedBlocks(NamedTuple):
    """Kept (N, 1) blocks of the matrix [c_out, c_in k k]: weight = step * (q - 2^(bits-1)), and q, 0 <= q < 2^bits, packed."""

    packed: Tensor
    """uint8 [ceil(blocks * N * bits / 8)], block row by block row."""
    indices: Tensor
    """int32 [blocks]: the column of each."""
    indptr: Tensor
    """int32 [c_out / N + 1]: where each block row begins; [0] where all have equally many."""
    step: Tensor
    """float32 [channels, 1, ...], or a scalar."""
    bits: int
    block: int
    shape: torch.Size

    @property
    def replaces(self) -> tuple[str, ...]:
        """The layer's tensors that follow from it."""
        return ("weight", "mask", "weight_scale", "weight_zero_point")

    def weight(self) -> Tensor:
        """float32 [shape], 0 where no block is."""
        groups, columns = self.shape[0] // self.block, self.shape[1:].numel()
        codes = _unpacked(self.packed, len(self.indices) * self.block, self.bits).reshape(-1, self.block)
        counts = self.indptr.diff() if len(self.indptr) else torch.tensor(len(self.indices) // groups).expand(groups)
        dense = torch.zeros(groups, columns, self.block)
        row = torch.repeat_interleave(torch.arange(groups), counts.long())
        dense[row, self.indices.long()] = codes.float() - 2 ** (self.bits - 1)
        return dense.transpose(1, 2).reshape(self.shape) * self.step


@torch.no_grad()
def pack_blocks(layer: QuantMaskedConv2d | QuantMaskedLinear) -> PackedBlocks:
    """The kept blocks of a layer with at most 8 bits on a symmetric grid and a mask that is constant on its blocks."""
    if layer.block is None or layer.scheme != "symmetric" or layer.weight_bits > 8:
        raise ValueError("blocks are packed of at most 8 bits on a symmetric grid")
    bits, n = layer.weight_bits, layer.block
    kept = layer.mask.flatten(1).reshape(len(layer.mask) // n, n, -1)
    if not torch.equal(kept.any(1), kept.all(1)):
        raise ValueError(f"the mask is not constant on blocks of {n} output channels")
    row, column = kept.any(1).nonzero(as_tuple=True)
    codes = layer.weight_grid().quantize(layer.weight.detach()).flatten(1).reshape(kept.shape)[row, :, column]
    counts = torch.bincount(row, minlength=len(kept))
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)]) if bool((counts != counts[0]).any()) else counts[:0]
    packed = _packed(codes + 2 ** (bits - 1), bits)
    step = layer.weight_scale.detach()
    return PackedBlocks(packed, column.int(), indptr.int(), step, bits, n, layer.weight.shape)


def packed_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with every weight of at most 8 bits packed.

    In the place of NAME.weight are NAME.packed, NAME.low and NAME.step. Of 1xN blocks, NAME.packed, NAME.indices, NAME.indptr
    and NAME.step are in the place of weight, mask and grid.
    """
    tensors = dict(model.state_dict())
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedWeight) and layer.weight_bits <= 8:
            stored = pack_blocks(layer) if stored_as_blocks(layer) else pack_weight(layer)
            for replaced in stored.replaces:
                del tensors[f"{name}.{replaced}"]
            tensors |= {f"{name}.{part}": t for part, t in stored._asdict().items() if isinstance(t, Tensor)}
    return tensors


def stored_as_blocks(layer: object) -> TypeGuard[QuantMaskedConv2d | QuantMaskedLinear]:
    """Whether a layer's kept blocks and their indices take fewer bytes than all its weights."""
    if (
        not isinstance(layer, QuantMaskedConv2d | QuantMaskedLinear)
        or layer.block is None
        or layer.scheme != "symmetric"
    ):
        return False
    return layer_bytes(layer, "bsr") < layer_bytes(layer, "dense")


def _packed(q: Tensor, bits: int) -> Tensor:
    """Integers 0 <= q < 2^bits -> uint8 [ceil(values * bits / 8)]: value i has bits i * bits and following, lowest first."""
    unpacked = np.unpackbits(q.to(torch.uint8).numpy().reshape(-1, 1), axis=1, bitorder="little", count=bits)
    return torch.from_numpy(np.packbits(unpacked, bitorder="little"))


def _unpacked(packed: Tensor, count: int, bits: int) -> Tensor:
    """The first `count` values of it: uint8."""
    unpacked = np.unpackbits(packed.numpy(), bitorder="little", count=count * bits)
    return torch.from_numpy(np.packbits(unpacked.reshape(-1, bits), axis=1, bitorder="little").flatten())
