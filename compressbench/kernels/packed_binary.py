"""Convolution of one-bit weights with one-bit activations on the CPU, 64 channels to a word (XNOR-Net, arXiv 1603.05279)."""

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.native import (
    Isa,
    best_isa,
    output_for,
    output_size,
    per_channel,
    runnable,
)
from compressbench.layers.binary import Encoding, sign_ste


class Binary(ctypes.Structure):
    """`cb_binary` of packed_binary.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("c_in", "height", "width", "c_out", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding")),
        *((name, ctypes.c_void_p) for name in ("weights", "base", "row_class", "column_class")),
        ("column_classes", ctypes.c_int32),
        ("factor", ctypes.c_int32),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


NAME = "packed_binary"
CHANNELS = ctypes.CFUNCTYPE(ctypes.c_int)
CONVOLVE = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(Binary), *[ctypes.c_void_p] * 3, ctypes.c_int32, ctypes.c_int32
)  # (layer, x, workspace, y, batch, threads)


class PackedBinaryConv2d:
    """y = scale * conv2d(sign(x), W) + bias, planned for one input size. Tensors are NHWC; the result is integer-exact.

    bits: bool [c_out, c_in, k, k]. With encoding "signs" W is +1 where set, else -1 (ReCU; XOR and popcount); with
    "ones" W is 1 where set, else 0 (SiMaN's storage; AND and popcount). sign(x) is -1 for x <= 0. The padding is zero,
    neither +1 nor -1. input_size: (height, width). Where the library could not be built, PyTorch computes it (`isa` TORCH).
    """

    def __init__(
        self,
        bits: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        input_size: Sequence[int],
        *,
        stride: int = 1,
        padding: int = 0,
        encoding: Encoding = "signs",
        isa: Isa | None = None,
    ) -> None:
        self.isa = runnable(isa, best_isa(NAME))
        if bits.dtype != torch.bool or bits.dim() != 4 or bits.shape[2] != bits.shape[3]:
            raise ValueError(f"bits must be bool [c_out, c_in, k, k], not {bits.dtype} {tuple(bits.shape)}")
        c_out, c_in, kernel, _ = bits.shape
        height, width = map(int, input_size)
        out_height, out_width = output_size(height, width, kernel, stride, padding)
        self.input_shape, self.output_shape = (height, width, c_in), (out_height, out_width, c_out)
        self._scale, self._bias = per_channel("scale", scale, c_out, 1.0), per_channel("bias", bias, c_out, 0.0)
        if self.isa is Isa.TORCH:
            self._weights = pack_weights(bits, 1)
            weight = bits.float() if encoding == "ones" else 2 * bits.float() - 1
            self._convolve = functools.partial(F.conv2d, weight=weight, stride=stride, padding=padding)
            return
        group = native.kernel("packed_binary_channels", self.isa, CHANNELS)()
        self._weights = pack_weights(bits, group)
        base, self._row_class, self._column_class = _border(bits, height, width, stride, padding, encoding)
        self._base, self._scale, self._bias = (F.pad(t, (0, -c_out % group)) for t in (base, self._scale, self._bias))
        self._layer = Binary(
            c_in, height, width, c_out, out_height, out_width, kernel, stride, padding, self._weights.data_ptr(),
            self._base.data_ptr(), self._row_class.data_ptr(), self._column_class.data_ptr(), self._base.shape[1],
            -2 if encoding == "signs" else 2, self._scale.data_ptr(), self._bias.data_ptr(),
        )  # fmt: skip
        self._run = native.kernel(NAME, self.isa, CONVOLVE)
        words = (height + 2 * padding) * (width + 2 * padding) * -(-c_in // 64)
        self._workspace = torch.empty(words, dtype=torch.int64)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed weights."""
        return self._weights.numel() * 8

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [batch, height, width, c_in] -> [batch, out_height, out_width, c_out], in `out` where given."""
        out = output_for(x, self.input_shape, self.output_shape, out)
        if self.isa is Isa.TORCH:
            signs = sign_ste(x).permute(0, 3, 1, 2)
            return torch.addcmul(self._bias, self._convolve(signs).permute(0, 2, 3, 1), self._scale, out=out)
        self._run(
            self._layer, x.data_ptr(), self._workspace.data_ptr(), out.data_ptr(), x.shape[0], torch.get_num_threads()
        )
        return out


def pack_bits(bits: Tensor) -> Tensor:
    """bool [..., channels] -> int64 [..., ceil(channels / 64)]; channel c is bit c % 64 of word c // 64."""
    padded = F.pad(bits, (0, -bits.shape[-1] % 64)).unflatten(-1, (-1, 64)).long()
    return (padded << torch.arange(64)).sum(-1)


def pack_weights(bits: Tensor, group: int) -> Tensor:
    """bool [c_out, c_in, k, k] -> int64 [groups of `group` output channels, taps, words, group]."""
    words = pack_bits(bits.flatten(2).transpose(1, 2))
    padded = F.pad(words, (0, 0, 0, 0, 0, -len(words) % group))
    return padded.unflatten(0, (-1, group)).permute(0, 2, 3, 1).contiguous()


def _border(
    bits: Tensor, height: int, width: int, stride: int, padding: int, encoding: Encoding
) -> tuple[Tensor, Tensor, Tensor]:
    """(base int32 [row classes, column classes, c_out], row class, column class): see `cb_binary` in packed_binary.cpp."""
    row_taps, row_class = _valid_taps(height, bits.shape[2], stride, padding)
    column_taps, column_class = _valid_taps(width, bits.shape[3], stride, padding)
    ones = torch.einsum("ocuv,ru,sv->rso", bits.double(), row_taps, column_taps)
    if encoding == "ones":
        return (-ones).round().int().contiguous(), row_class, column_class
    # Of a tap in the padding, XOR with bit 0 counts the ones of the weight: they are given back.
    missing = bits.double().sum((1, 2, 3)) - ones
    valid = bits.shape[1] * torch.einsum("ru,sv->rs", row_taps, column_taps)[..., None]
    return (valid + 2 * missing).round().int().contiguous(), row_class, column_class


def _valid_taps(side: int, kernel: int, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """(taps that lie inside the image, one row per distinct set [classes, kernel]; class of every output position)."""
    outputs = (side + 2 * padding - kernel) // stride + 1
    source = stride * torch.arange(outputs)[:, None] + torch.arange(kernel) - padding
    taps, position = torch.unique((source >= 0) & (source < side), dim=0, return_inverse=True)
    return taps.double(), position.int()
