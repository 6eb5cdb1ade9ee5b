"""Our kernels against the best dense form of every layer, measured layer by layer (`make bench-kernels`).

All candidates of a layer run interleaved in one process on the same input, each in the layout that it likes best (a dense
form's layout is not timed; ours reads and writes NCHW or, binary, NHWC, and what it copies or packs is timed).
"""

import functools
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import models
from compressbench.compression.blocks import encode_bsr, random_block_mask
from compressbench.kernels import native
from compressbench.kernels.binary import BinaryConv2d
from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.kernels.executors import make_executor
from compressbench.kernels.latency import interleaved_times, measuring
from compressbench.kernels.packed import packed_convolution
from compressbench.kernels.trial import Call
from compressbench.seeding import derive_seed, generator

NETWORKS: Mapping[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "MobileNet-V2": ("mobilenet_v2", {}, (3, 224, 224)),
    "ResNet-50": ("resnet50", {}, (3, 224, 224)),
    "ResNet-18": ("resnet18", {}, (3, 224, 224)),
    "ResNet-56": ("resnet_cifar", {"blocks": [9, 9, 9], "widths": [16, 32, 64]}, (3, 32, 32)),
    "VGG-16": ("vgg", {}, (3, 32, 32)),
}
BLOCKS = (1, 4, 8, 16)
SPARSITIES = (0.5, 0.75, 0.875, 0.9, 0.95)


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
    def operations(self) -> int:
        """Two per multiply-accumulate of the dense layer."""
        return 2 * self.c_in * self.c_out * self.kernel**2 * self.out_size**2

    def __str__(self) -> str:
        kind = "" if self.kernel == 1 else f" {self.kernel}x{self.kernel}"
        return f"{self.c_in}->{self.c_out}@{self.size}{kind}{f' /{self.stride}' if self.stride > 1 else ''}"


def convolutions(network: str) -> Counter[Shape]:
    """How often each shape of an ungrouped convolution occurs in a network, without the first one, which stays dense."""
    architecture, arguments, input_size = NETWORKS[network]
    with torch.device("meta"):
        model = models.build(architecture, **arguments).eval()
    found: list[Shape] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        kernel, stride, padding = (int(pair[0]) for pair in (layer.kernel_size, layer.stride, layer.padding))
        found.append(Shape(layer.in_channels, layer.out_channels, inputs[0].shape[-1], kernel, stride, padding))

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            layer.register_forward_hook(note)
    with torch.no_grad():
        model(torch.empty(1, *input_size, device="meta"))
    return Counter(found[1:])


def measure_network(
    network: str,
    threads: int = 1,
    blocks: Sequence[int] = BLOCKS,
    sparsities: Sequence[float] = SPARSITIES,
    rounds: int = 15,
    only_kernel: int | None = None,
) -> pd.DataFrame:
    """One row per (layer, form), with its minimum and median of milliseconds.

    form: "peak", "sparse", "binary" (3x3 layers), or the name of a dense form. `operations` are those of the kept weights.
    """
    rng = random.Random(derive_seed("benchmark", network, threads))
    rows: list[dict[str, Any]] = []
    for shape, count in convolutions(network).items():
        if only_kernel not in (None, shape.kernel):
            continue
        with measuring(threads):
            candidates = list(_candidates(shape, blocks, sparsities))
            times = interleaved_times([call for call, _ in candidates], rounds, 3, rng)
        layer = {"network": network, "layer": str(shape), "kernel": shape.kernel, "count": count, "threads": threads}
        for (_, about), own in zip(candidates, times, strict=True):
            rows.append(layer | about | {"min_ms": own.min(), "median_ms": float(pd.Series(own).median())})
    return pd.DataFrame(rows)


def _candidates(
    shape: Shape, blocks: Sequence[int], sparsities: Sequence[float]
) -> Iterator[tuple[Call, dict[str, Any]]]:
    rng = generator("benchmark", str(shape))
    x = torch.randn(1, shape.c_in, shape.size, shape.size, generator=rng)
    weight = torch.randn(shape.c_out, shape.c_in, shape.kernel, shape.kernel, generator=rng)
    bias = torch.randn(shape.c_out, generator=rng)
    none = {"n": 0, "sparsity": 0.0, "tile": ""}
    spin, operations = native.peak_call(20_000)
    yield spin, {"form": "peak", **none, "operations": operations}
    for name, call in dense_forms(shape, x, weight, bias).items():
        yield call, {"form": name, **none, "operations": shape.operations}
    geometry: Any = {"stride": shape.stride, "padding": shape.padding}
    for n, sparsity in itertools.product(blocks, sparsities):
        width = next(m for m in (n, n // 2, n // 4, 1) if m and shape.c_out % m == 0)
        mask = random_block_mask(weight, width, sparsity, rng)
        layer = BlockSparseConv2d(
            encode_bsr(weight, mask, width), bias, x.shape[1:], kernel=shape.kernel, **geometry
        ).tune()
        out = torch.empty(1, *layer.output_shape)
        kept = round(shape.operations * float(mask.float().mean()))
        about = {"form": "sparse", "n": n, "sparsity": sparsity, "tile": layer.tile, "operations": kept}
        yield functools.partial(layer, x, out=out), about
    if shape.kernel == 3:
        binary = BinaryConv2d(weight > 0, bias, bias, (shape.size, shape.size), **geometry)
        image, out = x.permute(0, 2, 3, 1).contiguous(), torch.empty(1, *binary.output_shape)
        yield (lambda: binary(image, out=out)), {"form": "binary", **none, "operations": shape.operations}


def dense_forms(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Call]:
    """The forms in which torch and ONNX Runtime run the layer: layouts, packed weights, and for 1x1 matrix products."""
    stride, padding = [shape.stride] * 2, [shape.padding] * 2
    last, weight_last = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    forms: dict[str, Call] = {
        "NCHW": lambda: F.conv2d(x, weight, bias, shape.stride, shape.padding),
        "channels_last": lambda: F.conv2d(last, weight_last, bias, shape.stride, shape.padding),
    }
    packed = packed_convolution(weight, bias, last.shape, stride, padding)
    if packed is not None:
        forms["packed"] = functools.partial(packed, last)
    if shape.kernel == 1 and shape.stride == 1:
        matrix, pixels = weight.flatten(1), x.flatten(2)[0]
        rows, transposed = last.permute(0, 2, 3, 1).flatten(0, 2), matrix.t().contiguous()
        out, out_last = torch.empty(shape.c_out, pixels.shape[1]), torch.empty(pixels.shape[1], shape.c_out)
        forms["GEMM NCHW"] = lambda: torch.addmm(bias[:, None], matrix, pixels, out=out)
        forms["GEMM NHWC"] = lambda: torch.addmm(bias, rows, transposed, out=out_last)
    layer = nn.Conv2d(shape.c_in, shape.c_out, shape.kernel, shape.stride, shape.padding)
    layer.load_state_dict({"weight": weight, "bias": bias})
    forms["onnxruntime"] = make_executor("onnxruntime").prepare(layer.eval(), x)
    return forms


def sums(table: pd.DataFrame) -> pd.DataFrame:
    """Per network, kernel size, threads and form: the minima summed over layers, ours and of each layer's best dense form.

    `peak_share`: operations on kept weights per second, over the peak measured beside them.
    """
    keys = ["network", "kernel", "threads"]
    table = table.assign(total=table["min_ms"] * table["count"], work=table["operations"] * table["count"])
    ours = table["form"].isin(["sparse", "binary", "peak"])
    dense = table[~ours].groupby([*keys, "layer"])["total"].min().groupby(level=keys).sum().rename("dense_ms")
    peaks = table[table["form"] == "peak"]
    peak = (peaks["operations"] / peaks["min_ms"]).groupby([peaks[k] for k in keys]).max().rename("peak")
    own = table[table["form"].isin(["sparse", "binary"])]
    result = own.groupby([*keys, "form", "n", "sparsity"])[["total", "work"]].sum().reset_index()
    result = result.merge(dense.reset_index()).merge(peak.reset_index())
    result["speedup"] = result["dense_ms"] / result["total"]
    result["peak_share"] = result["work"] / result["total"] / (result["peak"] * result["threads"])
    return result.rename(columns={"total": "ms"}).drop(columns=["work", "peak"])
