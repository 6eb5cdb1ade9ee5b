"""A pointwise convolution in blocks and the depthwise one that reads it, run together."""

import ctypes
import functools
from typing import Self

import torch
from torch import Tensor

from compressbench.kernels.autotune import fastest
from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.kernels.depthwise import DepthwiseConv2d
from compressbench.kernels.native import Step, kernel, output_for, program

TURNS = (1, 2, 4, 8, 16)


class Expanded(ctypes.Structure):
    """`cb_expanded` of expanded.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("first", "second")),
        *((name, ctypes.c_int32) for name in ("n", "rows", "turn")),
        *((name, ctypes.c_int64) for name in ("image", "between", "out")),
    )


WORKSPACE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(Expanded), ctypes.c_int32)


class ExpandedDepthwise:
    """y = second(first(x)), a few block rows of `first` at a time, so that what lies between them stays in the cache.

    The result has the same bits as the layers one after the other. first: `direct`; both in the same build.
    """

    def __init__(self, first: BlockSparseConv2d, second: DepthwiseConv2d) -> None:
        if not first.direct or first.isa is not second.isa or first.output_shape != second.input_shape:
            raise ValueError("a pointwise convolution of stride 1 and the depthwise one that reads it, in one build")
        self.isa, self.input_shape, self.output_shape = first.isa, first.input_shape, second.output_shape
        self._layers = (first, second)
        image, between, out = (
            torch.Size(shape) for shape in (first.input_shape, first.output_shape, second.output_shape)
        )
        self._layer = Expanded(
            ctypes.addressof(first.layer), ctypes.addressof(second.layer), first.layer.n, between[0] // first.layer.n, 1,
            image.numel(), between[1:].numel(), out[1:].numel(),
        )  # fmt: skip
        self._workspace = torch.empty(0)

    def tune(self) -> Self:
        """Choose the number of block rows at a time by a short trial on one random image."""
        x, out = torch.randn(1, *self.input_shape), torch.empty(1, *self.output_shape)

        def trial(turn: int) -> None:
            self._layer.turn = turn
            self(x, out=out)

        turns = [turn for turn in TURNS if turn <= self._layer.rows]
        self._layer.turn = fastest({turn: functools.partial(trial, turn) for turn in turns}, warmup=1)
        return self

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [batch, c_in, height, width] -> [batch, channels, out_height, out_width], in `out` where given."""
        out = output_for(x, self.input_shape, self.output_shape, out)
        program([self.step(x, out)])()
        return out

    def step(self, x: Tensor, out: Tensor) -> Step:
        """The call on these tensors, which must fit, for `native.program` with the present number of threads."""
        needed = kernel("expanded_workspace", self.isa, WORKSPACE)(self._layer, torch.get_num_threads())
        if self._workspace.numel() < needed:
            self._workspace = torch.empty(needed)
        return Step.on(kernel("expanded", self.isa), self._layer, x, out, self._workspace, owner=self)
