"""Convolution of one-bit weights with one-bit activations on the CPU, 64 channels to a word (XNOR-Net, arXiv 1603.05279)."""

import ctypes
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.block_sparse import INFINITY
from compressbench.kernels.native import (
    Isa,
    Step,
    best_isa,
    check_tensor,
    output_for,
    output_size,
    per_channel,
    program,
    runnable,
)
from compressbench.layers.binary import Encoding, sign_ste


class Binary(ctypes.Structure):
    """`cb_binary` of packed_binary.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("c_in", "height", "width", "c_out", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding", "encoding", "centred")),
        *((name, ctypes.c_void_p) for name in ("norm", "offsets", "weights", "base", "classes")),
        ("class_pitch", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("scale", "bias", "slope")),
        *((name, ctypes.c_float) for name in ("low", "high")),
        *((name, ctypes.c_void_p) for name in ("input", "copies", "signs", "limits", "flips")),
    )


NAME = "packed_binary"
SIZE = ctypes.CFUNCTYPE(ctypes.c_int)
LONGEST = 16  # lanes of a vector


class Signs:
    """The signs of images [channels, pixels], 64 channels to a word: what one layer leaves for the next."""

    def __init__(self, channels: int, pixels: int) -> None:
        self.channels, self.pixels = channels, pixels
        self._words = torch.empty(0, dtype=torch.int64)

    def place(self, batch: int) -> int:
        """The address of so many images."""
        needed = batch * -(-self.channels // 64) * self.pixels + LONGEST
        if len(self._words) < needed:
            self._words = torch.zeros(needed, dtype=torch.int64)
        return self._words.data_ptr()


class PackedBinaryConv2d:
    """y = clip(f(scale * conv2d(sign(x), W) + bias + residual)), planned for one input size; NCHW. The sums are exact integers.

    bits: bool [c_out, c_in, k, k]. With encoding "signs" W is +1 where set, else -1 (ReCU; XOR and popcount); with
    "ones" W is 1 where set, else 0 (SiMaN's storage; AND and popcount). sign(x) is -1 for x <= 0. The padding is zero,
    neither +1 nor -1. centred: the mean of each image is subtracted before the sign. norm: (scale, shift) [c_in], which x
    goes through before the sign; one of both at most. input_size: (height, width).
    slope: [c_out], that of a PReLU f; none for f(v) = v. clip: (low, high).
    Where the library could not be built, PyTorch computes it (`isa` TORCH).

    Attributes:
        input: the signs of what it reads.
        signs: those of what it computes, if another layer wants them.
        writes: whether the outputs are written, too. Without them and a residual, signs are those of exact integers.
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
        centred: bool = False,
        norm: tuple[Tensor, Tensor] | None = None,
        slope: Tensor | None = None,
        clip: tuple[float, float] = (-INFINITY, INFINITY),
        isa: Isa | None = None,
    ) -> None:
        self.isa = runnable(isa, best_isa(NAME))
        if bits.dtype != torch.bool or bits.dim() != 4 or bits.shape[2] != bits.shape[3]:
            raise ValueError(f"bits must be bool [c_out, c_in, k, k], not {bits.dtype} {tuple(bits.shape)}")
        c_out, c_in, kernel, _ = bits.shape
        height, width = map(int, input_size)
        out_height, out_width = output_size(height, width, kernel, stride, padding)
        self.input_shape, self.output_shape = (c_in, height, width), (c_out, out_height, out_width)
        self.kernel, self.stride, self.padding, self.centred, self.clip = kernel, stride, padding, centred, clip
        self._scale, self._bias = per_channel("scale", scale, c_out, 1.0), per_channel("bias", bias, c_out, 0.0)
        if norm is not None and centred:
            raise ValueError("signs are either those of centred images or behind a norm")
        self.norm = None if norm is None else torch.stack([per_channel("norm", values, c_in, 0.0) for values in norm])
        self._slope = None if slope is None else per_channel("slope", slope, c_out, 1.0)
        self.input = Signs(c_in, height * width)
        self.signs: Signs | None = None
        self.writes = True
        if self.isa is Isa.TORCH:
            self._weights = pack_weights(bits, 1)
            weight = bits.float() if encoding == "ones" else 2 * bits.float() - 1
            self._convolve = functools.partial(F.conv2d, weight=weight, stride=stride, padding=padding)
            return
        self._weights = pack_weights(bits, native.kernel(f"{NAME}_rows", self.isa, SIZE)())
        self._base, self._classes = _border(bits, height, width, stride, padding, encoding)
        self._offsets, copied = _copies(bits.shape, height, width, stride, padding)
        self._copies, self._sums = torch.zeros(copied, dtype=torch.int64), torch.empty(c_in)
        tables = (self.norm, self._offsets, self._weights, self._base, self._classes)
        self._layer = Binary(
            *self.input_shape, *self.output_shape, kernel, stride, padding, encoding == "ones", centred,
            *map(_address, tables), self._base.shape[1], *map(_address, (self._scale, self._bias, self._slope)), *clip,
            None, _address(self._copies),
        )  # fmt: skip

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed weights."""
        return self._weights.numel() * 8

    @property
    def keeps_signs(self) -> bool:
        """Whether the activation leaves every sign as it is."""
        low, high = self.clip
        return low <= 0 < high and (self._slope is None or bool((self._slope >= 0).all()))

    def __call__(self, x: Tensor, residual: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """x [batch, c_in, height, width] -> [batch, c_out, out_height, out_width], in `out` where given."""
        out = output_for(x, self.input_shape, self.output_shape, out)
        if residual is not None:
            check_tensor("residual", residual, out.shape)
        if self.isa is Isa.TORCH:
            return out.copy_(self._in_torch(x, residual))
        program([self.step(x, out, residual)])()
        return out

    def step(self, x: Tensor, out: Tensor, residual: Tensor | None = None, packed: bool = False) -> Step:
        """The call on these tensors, which must fit, for `native.program`. packed: `input` has the signs of x already."""
        layer, signs = self._layer, self.signs
        layer.input = self.input.place(x.shape[0])
        layer.signs = signs and signs.place(x.shape[0])
        if residual is None and not self.writes and self.keeps_signs:
            most = self.input_shape[0] * self.kernel**2
            limits, flips = thresholds(self._scale, self._bias, most)
            self._limits, self._flips = limits, pack_bits(flips)
            layer.limits, layer.flips = _address(self._limits), _address(self._flips)
        step = Step.on(
            native.kernel(NAME, self.isa), layer, x, out, self._sums, residual, owner=(self, self.input, signs)
        )
        if packed:
            step.x = None
        if not self.writes:
            step.y = None
        return step

    def _in_torch(self, x: Tensor, residual: Tensor | None) -> Tensor:
        x = x - x.mean((1, 2, 3), keepdim=True) if self.centred else x
        signs = sign_ste(x if self.norm is None else self.norm[0, :, None, None] * x + self.norm[1, :, None, None])
        y = torch.addcmul(self._bias[:, None, None], self._convolve(signs), self._scale[:, None, None])
        if residual is not None:
            y = y + residual
        return torch.clamp(y if self._slope is None else F.prelu(y, self._slope), *self.clip)


def _address(values: Tensor | None) -> int | None:
    return None if values is None or not len(values) else values.data_ptr()


def thresholds(scale: Tensor, bias: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(limit int32 [C], flip bool [C]): scale * e + bias > 0 is (e > limit) != flip, for all integers |e| <= most.

    It is so of real numbers: no product or sum is rounded.
    """
    found = [_threshold(float(s), float(b), most) for s, b in zip(scale, bias, strict=True)]
    limits, flips = zip(*found, strict=True)
    return torch.tensor(limits, dtype=torch.int32), torch.tensor(flips)


def _threshold(scale: float, bias: float, most: int) -> tuple[int, bool]:
    """Of one channel. Both are float32: float64 holds a product with a count, and never loses the sign of a sum."""
    if scale == 0 or not math.isfinite(scale + bias):
        return most, bias > 0
    flip = scale < 0
    limit = math.floor(min(max(-bias / scale, -most - 1), most))
    if limit < most and (scale * (limit + 1) + bias > 0) == flip:  # the quotient was rounded
        limit += 1
    elif limit >= -most and (scale * limit + bias > 0) != flip:
        limit -= 1
    return limit, flip


def pack_bits(bits: Tensor) -> Tensor:
    """bool [..., channels] -> int64 [..., ceil(channels / 64)]; channel c is bit c % 64 of word c // 64."""
    padded = F.pad(bits, (0, -bits.shape[-1] % 64)).unflatten(-1, (-1, 64)).long()
    return (padded << torch.arange(64)).sum(-1)


def pack_weights(bits: Tensor, group: int) -> Tensor:
    """bool [c_out, c_in, k, k] -> int64 [groups of `group` output channels, words, taps, group]."""
    words = pack_bits(bits.flatten(2).transpose(1, 2)).transpose(1, 2)
    padded = F.pad(words, (0, 0, 0, 0, 0, -len(words) % group))
    return padded.unflatten(0, (-1, group)).permute(0, 2, 3, 1).contiguous()


def _border(
    bits: Tensor, height: int, width: int, stride: int, padding: int, encoding: Encoding
) -> tuple[Tensor, Tensor]:
    """(base int32 [c_out, classes], class of every position): see `cb_binary` in packed_binary.cpp."""
    row_taps, row_class = _valid_taps(height, bits.shape[2], stride, padding)
    column_taps, column_class = _valid_taps(width, bits.shape[3], stride, padding)
    base = torch.einsum("ocuv,ru,sv->ors", bits.double(), row_taps, column_taps).neg().flatten(1)
    if encoding == "signs":
        # Of a tap in the padding, XOR with bit 0 counts the ones of the weight: they are given back.
        missing = bits.double().sum((1, 2, 3))[:, None] + base
        base = bits.shape[1] * torch.einsum("ru,sv->rs", row_taps, column_taps).flatten() + 2 * missing
    classes = (row_class[:, None] * len(column_taps) + column_class).flatten()
    return F.pad(base.round().int(), (0, -base.shape[1] % 16)).contiguous(), F.pad(classes, (0, LONGEST))


def _copies(shape: Sequence[int], height: int, width: int, stride: int, padding: int) -> tuple[Tensor, int]:
    """(offsets int32 [words * taps], words of all copies): see `cb_binary`; none are needed where taps read the input."""
    words, kernel = -(-shape[1] // 64), shape[2]
    if (kernel, stride, padding) == (1, 1, 0):
        return (torch.arange(words) * height * width).int(), 0
    out_height, out_width = output_size(height, width, kernel, stride, padding)
    phases = [out_height + (kernel - 1 - phase) // stride for phase in range(min(stride, kernel))]
    taps = torch.arange(kernel)
    before = torch.tensor([0, *phases]).cumsum(0)[taps % stride]
    rows = (before + taps // stride) * out_width
    plane = sum(phases) * out_width
    columns = (torch.arange(words)[:, None] * kernel + taps) * plane
    return (columns[:, None] + rows[:, None]).flatten().int(), words * kernel * plane + LONGEST


def _valid_taps(side: int, kernel: int, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """(taps that lie inside the image, one row per distinct set [classes, kernel]; class of every output position)."""
    outputs = (side + 2 * padding - kernel) // stride + 1
    source = stride * torch.arange(outputs)[:, None] + torch.arange(kernel) - padding
    taps, position = torch.unique((source >= 0) & (source < side), dim=0, return_inverse=True)
    return taps.double(), position.int()
