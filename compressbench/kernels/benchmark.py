"""Our kernels against the best dense form of every layer: `python -m compressbench.kernels.benchmark`, `make bench-kernels`.

All candidates of a layer run interleaved in one process, on the same input, in NCHW or the layout that they like best
(their conversion is not timed; ours reads and writes NCHW, and its copies for 3x3 and for strides are timed).
"""

import itertools
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import models
from compressbench.compression.blocks import encode_bsr, random_block_mask

from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.kernels.executors import Call
from compressbench.kernels.latency import interleaved_times
from compressbench.seeding import derive_seed, generator


@dataclass(frozen=True)
class Shape:
    """A convolution of one group at batch 1."""

    c_in: int
    c_out: int
    size: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def out_size(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        """Of the dense layer."""
        return self.c_in * self.c_out * self.kernel**2 * self.out_size**2

    def __str__(self) -> str:
        kind = "" if self.kernel == 1 else f" {self.kernel}x{self.kernel}"
        return f"{self.c_in}->{self.c_out}@{self.size}{kind}{f' /{self.stride}' if self.stride > 1 else ''}"


def convolutions(architecture: str, input_size: Sequence[int], **arguments: Any) -> Counter[Shape]:
    """How often each shape of a convolution of one group occurs in a network; the first one, which stays dense, left out."""
    with torch.device("meta"):
        model = models.build(architecture, **arguments).eval()
    found: list[Shape] = []

    def note(layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        kernel, stride, padding = (pair[0] for pair in (layer.kernel_size, layer.stride, layer.padding))
        found.append(Shape(layer.in_channels, layer.out_channels, inputs[0].shape[-1], kernel, stride, int(padding)))

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            layer.register_forward_hook(note)
    with torch.no_grad():
        model(torch.empty(1, *input_size, device="meta"))
    return Counter(found[1:])


def dense_forms(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Call]:
    """The forms in which torch can run the layer: layouts, weights packed for oneDNN, and for 1x1 matrix products."""
    stride, padding = [shape.stride] * 2, [shape.padding] * 2
    last, weight_last = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    forms: dict[str, Call] = {
        "NCHW": lambda: F.conv2d(x, weight, bias, shape.stride, shape.padding),
        "channels_last": lambda: F.conv2d(last, weight_last, bias, shape.stride, shape.padding),
    }
    if torch.backends.mkldnn.is_available():
        reorder, convolve = torch._C._nn.mkldnn_reorder_conv2d_weight, torch.ops.mkldnn._convolution_pointwise
        packed = reorder(weight.to_mkldnn(), padding, stride, [1, 1], 1, list(last.shape))
        forms["packed"] = lambda: convolve(last, packed, bias, padding, stride, [1, 1], 1, "none", [], "")
    if shape.kernel == 1 and shape.stride == 1:
        matrix, pixels = weight.flatten(1), x.flatten(2)[0]
        rows, transposed = last.permute(0, 2, 3, 1).flatten(0, 2), matrix.t().contiguous()
        out, out_last = torch.empty(shape.c_out, pixels.shape[1]), torch.empty(pixels.shape[1], shape.c_out)
        forms["GEMM NCHW"] = lambda: torch.addmm(bias[:, None], matrix, pixels, out=out)
        forms["GEMM NHWC"] = lambda: torch.addmm(bias, rows, transposed, out=out_last)
    return forms


def sparse_forms(
    x: Tensor, shape: Shape, blocks: Sequence[int], sparsities: Sequence[float]
) -> Iterator[tuple[tuple[int, float], BlockSparseConv2d]]:
    """((N, sparsity), planned convolution) with blocks drawn at random, where N divides the output channels."""
    rng = generator("kernels", "blocks", derive_seed(str(shape)))
    weight = torch.randn(shape.c_out, shape.c_in, shape.kernel, shape.kernel, generator=rng)
    for n, sparsity in itertools.product(blocks, sparsities):
        n = next(m for m in (n, n // 2, n // 4, 1) if m and shape.c_out % m == 0)
        encoded = encode_bsr(weight, random_block_mask(weight, n, sparsity, rng), n)
        yield (
            (n, sparsity),
            BlockSparseConv2d(
                encoded, torch.randn(shape.c_out, generator=rng), x.shape[1:], kernel=shape.kernel,
                stride=shape.stride, padding=shape.padding,
            ),
        )  # fmt: skip
