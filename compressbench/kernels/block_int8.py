"""1xN block-sparse convolution in int8: uint8 activations, int8 weights, integer sums, planned for one input size."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.autotune import fastest
from compressbench.kernels.block_sparse import INFINITY, check_blocks, column_offsets
from compressbench.kernels.native import Isa, Step, best_isa, check_tensor, output_size, per_channel, program, runnable
from compressbench.pruning.blocks import BlockSparse

MOST = 2**31 - 1
GROUPS = (1, 2, 4, 16, 64)


class Int8Convolution(ctypes.Structure):
    """`cb_block_int8` of block_int8.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("c_in", "height", "width", "c_out", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding", "n")),
        *((name, ctypes.c_void_p) for name in ("indptr", "offsets", "weights", "start", "scale", "bias")),
        *((name, ctypes.c_float) for name in ("residual_scale", "low", "high")),
        *((name, ctypes.c_int32) for name in ("zero", "floats", "residual_floats", "group")),
    )


SIZE = ctypes.CFUNCTYPE(ctypes.c_int)
WORKSPACE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(Int8Convolution))


class BlockInt8Conv2d:
    """Convolution of codes with codes in 1xN blocks; NCHW. All builds, and PyTorch without them, give the same integers:

    value = conv2d(x - zero_point, W) * scale + bias [+ residual * residual_scale], where the sums are exact and each
    multiply-add is rounded once to fp32 (as `fused_multiply_add`); y = value rounded half to even, clipped, as uint8, or
    value, clipped, as fp32. In the padding x is the zero point. A scale and a bias that carry the step and the zero point of
    the output, and a `clip` within 0 to 255, make y the codes of the next layer.

    blocks: W as [c_out, c_in * k * k] in (N, 1) blocks, int8. scale, bias: float [c_out].
    input_size: (c_in, height, width). clip: (low, high); by default that of the type.
    dtype, residual_dtype: torch.uint8 or torch.float32.
    group: tiles of 64 positions that a block row covers in a row; by default what fits the cache.
    """

    def __init__(
        self,
        blocks: BlockSparse,
        scale: Tensor,
        bias: Tensor | None,
        input_size: Sequence[int],
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        zero_point: int = 0,
        residual_scale: float = 1.0,
        residual_dtype: torch.dtype = torch.uint8,
        clip: tuple[float, float] | None = None,
        dtype: torch.dtype = torch.uint8,
        isa: Isa | None = None,
        group: int | None = None,
    ) -> None:
        self.isa = runnable(isa, best_isa("block_int8"))
        c_in, height, width = map(int, input_size)
        c_out, n = blocks.shape[0], blocks.data.shape[1]
        check_blocks(blocks, c_in, kernel, n, torch.int8)
        out_height, out_width = output_size(height, width, kernel, stride, padding)
        self.input_shape, self.output_shape = (c_in, height, width), (c_out, out_height, out_width)
        self.clip, self.dtype = _clip(clip, dtype), dtype
        self.zero_point, self.residual_scale, self.residual_dtype = zero_point, residual_scale, residual_dtype
        self._scale, self._bias = per_channel("scale", scale, c_out, 1.0), per_channel("bias", bias, c_out, 0.0)
        weight = blocks.decode().long()
        self._check_range(weight)
        if self.isa is Isa.TORCH:
            shaped = weight.double().reshape(c_out, c_in, kernel, kernel)
            self._convolve = functools.partial(F.conv2d, weight=shaped, stride=stride)
            self._pad = (padding,) * 4
            return
        columns, weights, self._indptr = _in_fours(blocks)
        narrow = native.kernel("block_int8_weight_bytes", self.isa, SIZE)() == 1
        self._weights = weights.to(torch.int8 if narrow else torch.int16)
        self._offsets = column_offsets(c_in, kernel, stride, out_height, out_width)[columns.long()].contiguous()
        self._start = (-zero_point * weight.sum(1)).int()
        tensors = self._indptr, self._offsets, self._weights, self._start, self._scale, self._bias
        self._layer = Int8Convolution(
            c_in, height, width, c_out, out_height, out_width, kernel, stride, padding, n,
            *(tensor.data_ptr() for tensor in tensors), residual_scale, *self.clip, zero_point, dtype is torch.float32,
            residual_dtype is torch.float32, group or _group(c_in * kernel),
        )  # fmt: skip
        size = native.kernel("block_int8_workspace", self.isa, WORKSPACE)(self._layer)
        self._workspace = torch.empty(size, dtype=torch.uint8)

    def _check_range(self, weight: Tensor) -> None:
        """ValueError where the sums, or the values that are rounded, leave the range of int32."""
        if not 0 <= self.zero_point <= 255:
            raise ValueError(f"a zero point of uint8 lies between 0 and 255, not at {self.zero_point}")
        # An integer sum at any point of its way: what the zero point adds, and what the products add.
        sums = weight.abs().sum(1) * (255 + self.zero_point)
        values = sums.double() * self._scale.double().abs() + self._bias.double().abs() + 255 * abs(self.residual_scale)
        if not (bool((sums <= MOST).all()) and bool((values < MOST).all())):
            raise ValueError("the sums of this layer do not fit 32 bits")

    def tune(self) -> Self:
        """Choose the size of the groups by a short trial on one random image."""
        if self.isa is Isa.TORCH:
            return self
        x = torch.randint(256, (1, *self.input_shape), dtype=torch.uint8)
        out = torch.empty(1, *self.output_shape, dtype=self.dtype)

        def trial(group: int) -> None:
            self._layer.group = group
            self(x, out=out)

        self._layer.group = fastest({group: functools.partial(trial, group) for group in GROUPS}, warmup=1)
        return self

    def __call__(self, x: Tensor, residual: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """x uint8 [batch, c_in, height, width], residual [batch, c_out, ...] -> [batch, c_out, ...], in `out` where given."""
        shape = (x.shape[0], *self.output_shape)
        check_tensor("x", x, (x.shape[0], *self.input_shape), torch.uint8)
        if residual is not None:
            check_tensor("residual", residual, shape, self.residual_dtype)
        out = torch.empty(shape, dtype=self.dtype) if out is None else out
        check_tensor("out", out, shape, self.dtype)
        if self.isa is Isa.TORCH:
            return out.copy_(self._in_torch(x, residual))
        program([self.step(x, out, residual)])()
        return out

    def step(self, x: Tensor, out: Tensor, residual: Tensor | None = None) -> Step:
        """The call on these tensors, which must fit, for `native.program`."""
        return Step.on(native.kernel("block_int8", self.isa), self._layer, x, out, self._workspace, residual, self)

    def _in_torch(self, x: Tensor, residual: Tensor | None) -> Tensor:
        sums = self._convolve(F.pad(x.double() - self.zero_point, self._pad))
        scale, bias = (values[:, None, None] for values in (self._scale, self._bias))
        value = fused_multiply_add(sums.float(), scale, bias)
        if residual is not None:
            value = fused_multiply_add(residual.float(), torch.tensor(self.residual_scale), value)
        return (value if self.dtype is torch.float32 else value.round()).clamp(*self.clip)


def fused_multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of float32, rounded once.

    The product is exact in float64. The sum is rounded to odd there, which has the bits for a second rounding to float32 to be
    the right one (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
    """
    product, addend = torch.broadcast_tensors(a.double() * b.double(), c.double())
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = total.view(torch.int64) % 2 == 0
    toward = torch.where(error > 0, INFINITY, -INFINITY).double()
    return torch.where((error != 0) & even, torch.nextafter(total, toward), total).float()


def _clip(clip: tuple[float, float] | None, dtype: torch.dtype) -> tuple[float, float]:
    if dtype is torch.float32:
        return clip or (-INFINITY, INFINITY)
    if dtype is not torch.uint8:
        raise ValueError(f"the output is uint8 or float32, not {dtype}")
    low, high = clip or (0, 255)
    if not (0 <= low <= high <= 255 and low == int(low) and high == int(high)):
        raise ValueError(f"the codes of a uint8 output are clipped to integers from 0 to 255, not to {low} and {high}")
    return low, high


def _in_fours(blocks: BlockSparse) -> tuple[Tensor, Tensor, Tensor]:
    """(columns [fours, 4], weights [fours, N, 4], first four of every block row [c_out / N + 1]).

    The last four of a block row is filled up with weights of zero at its first column.
    """
    counts = blocks.indptr.diff().long()
    first = F.pad(((counts + 3) // 4).cumsum(0), (1, 0))
    row = torch.arange(len(counts)).repeat_interleave(counts)
    at = torch.arange(len(row)) + (4 * first[:-1] - blocks.indptr[:-1])[row]
    filled = torch.arange(len(counts)).repeat_interleave(4 * first.diff())
    columns, n = blocks.indices[blocks.indptr[:-1].long()[filled]], blocks.data.shape[1]
    columns[at] = blocks.indices
    weights = blocks.data.new_zeros(len(columns), n)
    weights[at] = blocks.data
    return columns.reshape(-1, 4), weights.reshape(-1, 4, n).transpose(1, 2).contiguous(), first.int()


def _group(planes: int) -> int:
    """Tiles whose input, `planes` rows of 64 bytes, stays in half a megabyte of the second-level cache."""
    return max(1, min(64, (1 << 19) // (64 * planes)))
