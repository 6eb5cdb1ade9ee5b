"""1xN block-sparse convolution on the CPU: plans a layer for one input size and calls the C++ kernel."""

import ctypes
import functools
import itertools
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.autotune import fastest
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
from compressbench.pruning.blocks import BlockSparse

INFINITY = float("inf")
BLOCK_SIZES = (1, 2, 4, 8, 16, 32)


class Convolution(ctypes.Structure):
    """`cb_convolution` of block_sparse.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("c_in", "height", "width", "c_out", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding", "n")),
        *((name, ctypes.c_void_p) for name in ("indptr", "offsets", "weights", "bias")),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        ("vectors", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("even_rows", ctypes.c_int32),
    )


SIZE = ctypes.CFUNCTYPE(ctypes.c_int)
VECTORS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
WORKSPACE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(Convolution))


class BlockSparseConv2d:
    """y = clip(conv2d(x, W) + bias + residual) with W in 1xN blocks, planned for one input size; fp32, NCHW.

    blocks: W as [c_out, c_in * k * k] in (N, 1) blocks (`compression.blocks.encode_bsr`).
    input_size: (c_in, height, width). clip: (low, high), (0, inf) for ReLU, (0, 6) for ReLU6.
    vectors, group: the register tile and the tiles per group (see block_sparse.cpp); by default what fits registers and cache.
    even_rows: threads take equally many block rows, which is fair for uniform rows only; by default equal work.
    Where the library could not be built, PyTorch computes the same with all the zeros (`isa` TORCH).
    """

    def __init__(
        self,
        blocks: BlockSparse,
        bias: Tensor | None,
        input_size: Sequence[int],
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        clip: tuple[float, float] = (-INFINITY, INFINITY),
        isa: Isa | None = None,
        vectors: int | None = None,
        group: int | None = None,
        even_rows: bool = False,
    ) -> None:
        self.isa = runnable(isa, best_isa())
        c_in, height, width = map(int, input_size)
        c_out, n = blocks.shape[0], blocks.data.shape[1]
        check_blocks(blocks, c_in, kernel, n)
        out_height, out_width = output_size(height, width, kernel, stride, padding)
        self.input_shape, self.output_shape = (c_in, height, width), (c_out, out_height, out_width)
        self.clip, self._bias = clip, per_channel("bias", bias, c_out, 0.0)
        if self.isa is Isa.TORCH:
            weight = blocks.decode().reshape(c_out, c_in, kernel, kernel)
            self._convolve = functools.partial(F.conv2d, weight=weight, bias=self._bias, stride=stride, padding=padding)
            return
        rows = min(n, native.kernel("block_sparse_rows", self.isa, SIZE)())
        most = most_vectors(self.isa, rows)
        lanes = native.kernel("block_sparse_lanes", self.isa, SIZE)()
        if vectors is not None and not 1 <= vectors <= most:
            raise ValueError(f"a register tile of {rows} channels takes 1 to {most} vectors, not {vectors}")
        self.rows = rows
        self._indptr = blocks.indptr.to(torch.int32).contiguous()
        self._offsets = column_offsets(c_in, kernel, stride, out_height, out_width)[blocks.indices.long()].contiguous()
        self._weights = _walking_order(blocks, rows)
        self.layer = Convolution(
            c_in, height, width, c_out, out_height, out_width, kernel, stride, padding, n,
            self._indptr.data_ptr(), self._offsets.data_ptr(), self._weights.data_ptr(), self._bias.data_ptr(),
            *clip, vectors or most, group or _group(c_in * kernel, most * lanes),
            even_rows,
        )  # fmt: skip
        self._workspace = torch.empty(native.kernel("block_sparse_workspace", self.isa, WORKSPACE)(self.layer))

    @property
    def direct(self) -> bool:
        """Whether the kernel reads the input where it is, without copies: pointwise, stride 1."""
        return self.isa is not Isa.TORCH and not self._workspace.numel()

    @property
    def tile(self) -> str:
        """The register tile: output channels x vectors of positions; empty for PyTorch."""
        return "" if self.isa is Isa.TORCH else f"{self.rows}x{self.layer.vectors}"

    def tune(self) -> Self:
        """Choose the register tile and its groups by a short trial on one random image."""
        if self.isa is Isa.TORCH:
            return self
        most = most_vectors(self.isa, self.rows)
        x, out = torch.randn(1, *self.input_shape), torch.empty(1, *self.output_shape)

        def trial(vectors: int, group: int) -> None:
            self.layer.vectors, self.layer.group = vectors, group
            self(x, out=out)

        plans = itertools.product(sorted({most, most - 1, most // 2, 2, 1} & set(range(1, most + 1))), (1, 4, 16, 64))
        best = fastest({plan: functools.partial(trial, *plan) for plan in plans}, warmup=1, hopeless=1.5)
        self.layer.vectors, self.layer.group = best
        return self

    def __call__(self, x: Tensor, residual: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """x [batch, c_in, height, width] -> [batch, c_out, out_height, out_width], in `out` where given."""
        out = output_for(x, self.input_shape, self.output_shape, out)
        if residual is not None:
            check_tensor("residual", residual, out.shape)
        if self.isa is Isa.TORCH:
            y = self._convolve(x)
            return torch.clamp(y if residual is None else y + residual, *self.clip, out=out)
        program([self.step(x, out, residual)])()
        return out

    def step(self, x: Tensor, out: Tensor, residual: Tensor | None = None) -> Step:
        """The call on these tensors, which must fit, for `native.program`."""
        return Step.on(native.kernel("block_sparse", self.isa), self.layer, x, out, self._workspace, residual, self)


def most_vectors(isa: Isa, rows: int) -> int:
    """Most vectors of positions in a register tile of `rows` output channels."""
    return int(native.kernel("block_sparse_vectors", isa, VECTORS)(rows))


def check_blocks(blocks: BlockSparse, c_in: int, kernel: int, n: int, dtype: torch.dtype = torch.float32) -> None:
    """ValueError unless they are the weights of a convolution with so many input channels, of this type."""
    c_out, columns = blocks.shape
    if n not in BLOCK_SIZES:
        raise ValueError(f"blocks of {n} channels: the kernels know {', '.join(map(str, BLOCK_SIZES))}")
    if columns != c_in * kernel * kernel or c_out % n:
        raise ValueError(f"weights [{c_out}, {columns}] do not fit {c_in} channels, kernel {kernel}, blocks of {n}")
    stored = len(blocks.indices)
    if len(blocks.indptr) != c_out // n + 1 or int(blocks.indptr[0]) != 0 or int(blocks.indptr[-1]) != stored:
        raise ValueError(f"indptr does not describe {c_out // n} block rows with {stored} blocks")
    if bool((blocks.indptr.diff() < 0).any()):
        raise ValueError("indptr falls")
    if stored and not (int(blocks.indices.min()) >= 0 and int(blocks.indices.max()) < columns):
        raise ValueError(f"a block's column lies outside 0 to {columns - 1}")
    if blocks.data.shape != (stored, n) or blocks.data.dtype != dtype:
        wanted = str(dtype).removeprefix("torch.")
        raise ValueError(f"data must be {wanted} [{stored}, {n}], not {blocks.data.dtype} {tuple(blocks.data.shape)}")


def column_offsets(c_in: int, kernel: int, stride: int, out_height: int, out_width: int) -> Tensor:
    """Where output position 0 finds its value for each im2col column, in the copies that block_sparse.cpp describes."""
    phases = min(stride, kernel)
    rows = torch.tensor([out_height + (kernel - 1 - phase) // stride for phase in range(phases)])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (rows * kernel * out_width).cumsum(0)])
    u, v = torch.arange(kernel)[:, None], torch.arange(kernel)[None]
    phase = u % stride
    offset = starts[phase] + v * rows[phase] * out_width + (u // stride) * out_width
    offsets = torch.arange(c_in)[:, None] * starts[-1] + offset.flatten()
    if int(offsets.max()) >= 2**31:
        raise ValueError("the layer is too large for 32-bit offsets")
    return offsets.flatten().to(torch.int32)


def _walking_order(blocks: BlockSparse, rows: int) -> Tensor:
    """data [stored, N] -> the order in which the kernel reads it: by block row, by pass of `rows` channels, by block."""
    n = blocks.data.shape[1]
    if n == rows:
        return blocks.data.contiguous()
    passes = [row.reshape(-1, n // rows, rows).transpose(0, 1).flatten() for row in blocks.data.split(_counts(blocks))]
    return torch.cat(passes)


def _counts(blocks: BlockSparse) -> list[int]:
    counts: list[int] = blocks.indptr.diff().tolist()
    return counts


def _group(planes: int, positions: int) -> int:
    """Register tiles whose input, `planes` rows of `positions` floats, stays in half a megabyte of the second-level cache."""
    return max(1, min(32, (1 << 19) // (4 * planes * positions)))
