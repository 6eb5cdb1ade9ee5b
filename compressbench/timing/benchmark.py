"""Our kernels against the best dense forms: layer by layer, in sequence, and end to end (`make bench-kernels`).

All candidates run interleaved in one process, each in the layout that it likes best (a dense form's layout is not timed;
ours reads and writes NCHW, and what it copies or packs is timed).
"""

import copy
import functools
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import machine, models
from compressbench.errors import UserError
from compressbench.kernels import native
from compressbench.kernels.autotune import Call, fastest
from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.kernels.onednn import packed_convolution
from compressbench.kernels.packed_binary import PackedBinaryConv2d
from compressbench.kernels.peak import peak_call
from compressbench.layers.binary import OneBitConv2d, binarise, binary_layers
from compressbench.layers.folding import fold_norms
from compressbench.layers.quantized import quantize_layer
from compressbench.layers.quantizers import make_grid, minmax_range
from compressbench.layers.registry import replace_module
from compressbench.models.structure import AnyModule
from compressbench.pruning.blocks import Rows, encode_bsr, prunable_layers, random_block_mask, weights_of
from compressbench.pruning.masks import apply_masks
from compressbench.runtimes.base import Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.runtimes.native import NativeRuntime
from compressbench.seeding import derive_seed, generator
from compressbench.timing.latency import DEFAULT_RUNTIMES, WINDOW, Times, interleaved_times, measuring

NETWORKS: Mapping[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "MobileNet-V2": ("mobilenet_v2", {}, (3, 224, 224)),
    "ResNet-50": ("resnet50", {}, (3, 224, 224)),
    "ResNet-18": ("resnet18", {}, (3, 224, 224)),
    "ResNet-56": ("resnet_cifar", {"blocks": [9, 9, 9], "widths": [16, 32, 64]}, (3, 32, 32)),
    "VGG-16": ("vgg", {}, (3, 32, 32)),
}
END_TO_END = ("MobileNet-V2", "ResNet-50")
IN_BATCHES = ("ResNet-50",)
FP32, FP32_BATCHES = (*DEFAULT_RUNTIMES, "openvino"), ("torch_eager", "onnxruntime", "openvino")
"""What a dense network runs on beside our own runtime, as far as it is installed: one image, and batches."""
INT8_RUNTIMES = ("onnxruntime_int8", "openvino_int8")
BLOCKS = (1, 4, 8, 16)
SPARSITIES = (0.0, 0.25, 0.5, 0.75, 0.875, 0.9, 0.95)
KERNELS = (1, 3)
# Seconds that a whole network, or a sequence, runs before another one takes over the caches and the cores.
STRETCH = 0.05


@dataclass(frozen=True)
class BinaryNetwork:
    """A network with one-bit convolutions, and the dense one that it competes with."""

    binary: tuple[str, dict[str, Any]]
    dense: tuple[str, dict[str, Any]]
    input_size: tuple[int, int, int]


SMALL: dict[str, Any] = {"in_channels": 1, "blocks": [1, 1, 1], "stem_stride": 2}
BINARY: Mapping[str, BinaryNetwork] = {
    "ResNet-18, 224x224": BinaryNetwork(("binary_resnet18", {"form": "recu"}), ("resnet18", {}), (3, 224, 224)),
    "ResNet-8, 28x28": BinaryNetwork(
        ("binary_resnet_cifar", SMALL | {"form": "recu"}), ("binary_resnet_cifar", SMALL), (1, 28, 28)
    ),
}


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
    def inputs(self) -> int:
        """Elements read."""
        return self.c_in * self.size**2

    @property
    def outputs(self) -> int:
        """Elements written."""
        return self.c_out * self.out_size**2

    @property
    def operations(self) -> int:
        """Two per multiply-accumulate of the dense layer."""
        return 2 * self.c_in * self.c_out * self.kernel**2 * self.out_size**2

    def __str__(self) -> str:
        kind = "" if self.kernel == 1 else f" {self.kernel}x{self.kernel}"
        return f"{self.c_in}->{self.c_out}@{self.size}{kind}{f' /{self.stride}' if self.stride > 1 else ''}"


def convolutions(network: str) -> list[Shape]:
    """The ungrouped convolutions of a network in forward order, without the first one, which stays dense."""
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
    return found[1:]


def measure(networks: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Everything, with one thread and with all.

    Returns {"layers", "sums", "sequences", "networks", "batches", "threads", "binary", "scaling"}.
    """
    if unknown := [name for name in networks if name not in NETWORKS]:
        raise UserError(f"unknown network {unknown[0]!r}: choose from {', '.join(NETWORKS)}.")
    if not native.is_built():
        raise UserError("the kernels are not built: install a C++ compiler (such as g++) and run `make clean setup`.")
    threads = sorted({1, machine.usable_cores()})
    whole = [name for name in END_TO_END if name in networks]
    layers = [measure_network(name) for name in networks]
    several = threads[1:]
    layers += [measure_network(name, count, (4, 16), (0.75, 0.9)) for name in whole for count in several]
    table = pd.concat(layers, ignore_index=True)
    return {
        "layers": table,
        "sums": sums(table),
        "sequences": _all(measure_sequence(name, count) for name in whole for count in threads),
        "networks": _all(measure_end_to_end(name, count) for name in whole for count in threads),
        "batches": _all(measure_batches(name) for name in IN_BATCHES if name in networks),
        "threads": pd.DataFrame([measure_threads(name, count) for name in whole for count in several]),
        "binary": _all(measure_binary(name, count) for name in BINARY for count in threads),
        "scaling": _all(measure_scaling(name, count) for name in whole for count in several),
    }


def _all(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    found = list(frames)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def measure_network(
    network: str,
    threads: int = 1,
    blocks: Sequence[int] = BLOCKS,
    sparsities: Sequence[float] = SPARSITIES,
    rounds: int = 15,
    kernels: Sequence[int] = KERNELS,
) -> pd.DataFrame:
    """One row per (layer, form), with its minimum and median of milliseconds.

    form: "peak", "sparse", "binary" (3x3 layers), or the name of a dense form. `operations` are those of the kept weights.
    """
    rng = random.Random(derive_seed("benchmark", network, threads))
    table: list[dict[str, Any]] = []
    for shape, count in Counter(convolutions(network)).items():
        if shape.kernel not in kernels:
            continue
        with measuring(threads):
            candidates = list(_candidates(shape, blocks, sparsities))
            window = WINDOW if threads == 1 else STRETCH / 5
            times = interleaved_times([call for call, _ in candidates], rounds, 3, rng, window=window)
        layer = {"network": network, "layer": str(shape), "kernel": shape.kernel, "count": count, "threads": threads}
        for (_, about), own in zip(candidates, times, strict=True):
            table.append(layer | about | _summary(own))
    return pd.DataFrame(table)


def measure_scaling(
    network: str,
    threads: int,
    blocks: Sequence[int] = (4, 16),
    sparsities: Sequence[float] = (0.75, 0.9),
    rounds: int = 60,
) -> pd.DataFrame:
    """Our kernels alone with one thread and with so many, summed over layers.

    "rows" is "ranked" (1xN) or "uniform" (SUBP); "share" is what threads take: equal "work", or equally many block "rows",
    which is what uniform rows are meant for. No other library runs in between, whose threads would be put to sleep and
    woken again.
    """
    sums: Counter[tuple[Any, ...]] = Counter()
    rng = random.Random(derive_seed("scaling", network, threads))
    every: list[tuple[int, float, Rows, str]] = list(
        itertools.product(blocks, sparsities, ("ranked", "uniform"), ("work", "rows"))
    )
    for shape, count in Counter(convolutions(network)).items():
        weight, x, y = _weight(shape), torch.randn(shape.inputs), torch.empty(shape.outputs)
        for used in (1, threads):
            with measuring(used):
                calls = [_sparse(shape, weight, n, p, row, x, y, share == "rows")[0] for n, p, row, share in every]
                times = interleaved_times(calls, rounds, 10, rng)
            for pattern, own in zip(every, times, strict=True):
                sums[(shape.kernel, *pattern, used)] += own.min() * count
    return pd.DataFrame(
        {
            "network": network, "kernel": kernel, "n": n, "sparsity": sparsity, "rows": row, "share": share,
            "threads": threads, "alone_ms": ms, "together_ms": sums[kernel, n, sparsity, row, share, threads],
        }
        for (kernel, n, sparsity, row, share, used), ms in sums.items()
        if used == 1
    )  # fmt: skip


def measure_sequence(
    network: str,
    threads: int = 1,
    blocks: Sequence[int] = (1, 4, 16),
    sparsities: Sequence[float] = (0.5, 0.75, 0.9),
    rounds: int = 15,
) -> pd.DataFrame:
    """All pointwise layers of a network one after the other, between two shared buffers: one row per (form, n, sparsity).

    Nearer to a network than layers that are timed alone: weights come from far, activations from where the layer before
    left them. "dense" runs every layer in its own fastest PyTorch form.
    """
    rng = random.Random(derive_seed("sequence", network, threads))
    layers = [shape for shape in convolutions(network) if (shape.kernel, shape.stride) == (1, 1)]
    most = max(max(shape.inputs, shape.outputs) for shape in layers)
    buffers = torch.randn(most), torch.empty(most)
    weights = [_weight(shape) for shape in layers]
    with measuring(threads):
        calls: list[Call] = [_in_a_row(_fastest_dense(*layer, *buffers) for layer in zip(layers, weights, strict=True))]
        about = [{"form": "dense", "n": 0, "sparsity": 0.0}]
        for n, sparsity in itertools.product(blocks, sparsities):
            calls.append(
                _in_a_row(
                    _sparse(shape, weight, n, sparsity, "ranked", *buffers)[0]
                    for shape, weight in zip(layers, weights, strict=True)
                )
            )
            about.append({"form": "sparse", "n": n, "sparsity": sparsity})
        times = interleaved_times(calls, rounds, 3, rng, window=STRETCH)
    same = {"network": network, "threads": threads}
    return pd.DataFrame([same | row | _summary(own) for row, own in zip(about, times, strict=True)])


def measure_end_to_end(
    network: str, threads: int = 1, n: int = 4, sparsity: float = 0.75, rounds: int = 15
) -> pd.DataFrame:
    """A whole network with 1xN blocks on our runtime beside the dense one on every runtime: one row per (form, runtime)."""
    return _beside_dense(network, 1, threads, n, sparsity, rounds)


def measure_batches(
    network: str, batches: Sequence[int] = (8, 32), n: int = 16, sparsity: float = 0.75, rounds: int = 5
) -> pd.DataFrame:
    """As `measure_end_to_end` with one thread, on batches: the milliseconds are those of one image."""
    return _all(_beside_dense(network, batch, 1, n, sparsity, rounds) for batch in batches)


def measure_threads(network: str, threads: int, n: int = 4, sparsity: float = 0.75, rounds: int = 30) -> dict[str, Any]:
    """A whole network with 1xN blocks alone, with one thread and with so many."""
    _, masked, rng = _networks(network, n, sparsity)
    x = torch.randn(1, *NETWORKS[network][2], generator=rng)
    best = {}
    for used in (1, threads):
        with measuring(used):
            call = make_runtime(NativeRuntime.name).prepare(masked, x)
            best[used] = float(interleaved_times([call], rounds, 10, random.Random(0)).min())
    row = {"network": network, "n": n, "sparsity": sparsity, "threads": threads}
    return row | {"alone_ms": best[1], "together_ms": best[threads]}


def _networks(network: str, n: int, sparsity: float) -> tuple[nn.Module, nn.Module, torch.Generator]:
    """With random weights, dense and in random 1xN blocks, and the generator of what follows."""
    architecture, arguments, _ = NETWORKS[network]
    torch.manual_seed(0)
    dense = models.build(architecture, **arguments).eval()
    rng = generator("end to end", network)
    layers = weights_of(dense, prunable_layers(dense))
    masks = {name: random_block_mask(weight, n, sparsity, rng) for name, weight in layers.items()}
    return dense, apply_masks(copy.deepcopy(dense), masks, block=n), rng


def _beside_dense(network: str, batch: int, threads: int, n: int, sparsity: float, rounds: int) -> pd.DataFrame:
    dense, masked, rng = _networks(network, n, sparsity)
    x = torch.randn(batch, *NETWORKS[network][2], generator=rng)
    ours, names = NativeRuntime.name, FP32 if batch == 1 else FP32_BATCHES
    with measuring(threads):
        calls = {name: call for name in (*names, ours) if (call := _prepared(name, dense, x)) is not None}
        about = [{"form": "dense", "runtime": name, "n": 0, "sparsity": 0.0} for name in calls]
        about.append({"form": "sparse", "runtime": ours, "n": n, "sparsity": sparsity})
        every = [*calls.values(), make_runtime(ours).prepare(masked, x)]
        rng_order = random.Random(derive_seed("end to end", network, threads, batch))
        times = interleaved_times(every, rounds, 3, rng_order, window=STRETCH) / batch
    same = {"network": network, "threads": threads, "batch": batch}
    return pd.DataFrame([same | row | _summary(own) for row, own in zip(about, times, strict=True)])


def _prepared(name: str, model: nn.Module, x: Tensor) -> Call | None:
    """None where the runtime's library is not installed."""
    try:
        return make_runtime(name).prepare(model, x)
    except Skip:
        return None


def measure_binary(network: str, threads: int = 1, rounds: int = 15) -> pd.DataFrame:
    """A whole binary network on our runtime beside the dense one in fp32 and in int8: one row per (form, runtime)."""
    about = BINARY[network]
    rng = generator("binary", network)
    torch.manual_seed(0)
    (architecture, arguments), x = about.dense, torch.randn(1, *about.input_size, generator=rng)
    dense = models.build(architecture, **arguments).eval()
    binary = _one_bit(*about.binary)
    forms: list[tuple[str, str, nn.Module]] = [("dense", name, dense) for name in (*FP32, NativeRuntime.name)]
    forms += [("dense int8", name, eight_bits(copy.deepcopy(dense), x)) for name in INT8_RUNTIMES]
    forms.append(("binary", NativeRuntime.name, binary))
    rows, calls = [], []
    with measuring(threads):
        for form, name, model in forms:
            if (call := _prepared(name, model, x)) is not None:
                calls.append(call)
                rows.append({"network": network, "threads": threads, "form": form, "runtime": name})
        order = random.Random(derive_seed("binary", network, threads))
        times = interleaved_times(calls, rounds, 3, order, window=STRETCH)
    return pd.DataFrame([row | _summary(own) for row, own in zip(rows, times, strict=True)])


def _one_bit(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    settings = {"scaled": True, "centred": False}
    network = binarise(models.build(architecture, **arguments), lambda layer: OneBitConv2d.rebuild(layer, settings))
    for layer in binary_layers(network).values():
        layer.weight.data.sign_()
    return network.eval()


@torch.no_grad()
def eight_bits(model: AnyModule, x: Tensor) -> AnyModule:
    """Norms folded, every convolution and linear layer in int8, in place: a range per channel of a weight, and per input."""
    fold_norms(model)
    layers = {layer: name for name, layer in model.named_modules() if type(layer) in (nn.Conv2d, nn.Linear)}
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        ranges[layers[layer]] = minmax_range(inputs[0])

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    model(x)
    for handle in handles:
        handle.remove()
    for module, name in layers.items():
        layer = quantize_layer(module, 8, 8, "symmetric", inputs="asymmetric")
        weights = make_grid(*minmax_range(layer.weight, per_channel=True), 8, "symmetric")
        inputs = make_grid(*ranges[name], 8, "asymmetric")
        for own, value in zip(
            (layer.weight_scale, layer.weight_zero_point, layer.input_scale, layer.input_zero_point),
            (weights.scale, weights.zero_point, inputs.scale, inputs.zero_point),
            strict=True,
        ):
            own.copy_(value)
        replace_module(model, name, layer)
    return model


def _summary(times: Times) -> dict[str, float]:
    return {"min_ms": float(times.min()), "median_ms": float(np.median(times))}


def _in_a_row(calls: Iterable[Call]) -> Call:
    chain = list(calls)

    def run() -> None:
        for call in chain:
            call()

    return run


def _weight(shape: Shape) -> Tensor:
    return torch.randn(
        shape.c_out, shape.c_in, shape.kernel, shape.kernel, generator=generator("benchmark", str(shape))
    )


def _candidates(
    shape: Shape, blocks: Sequence[int], sparsities: Sequence[float]
) -> Iterator[tuple[Call, dict[str, Any]]]:
    weight, x, y = _weight(shape), torch.randn(shape.inputs), torch.empty(shape.outputs)
    none = {"n": 0, "sparsity": 0.0, "tile": "", "isa": ""}
    spin, operations = peak_call(20_000)
    yield spin, {"form": "peak", **none, "operations": operations}
    for name, call in dense_forms(shape, weight, x, y).items():
        yield call, {"form": name, **none, "operations": shape.operations}
    layer = nn.Conv2d(shape.c_in, shape.c_out, shape.kernel, shape.stride, shape.padding)
    layer.weight.copy_(weight)
    image = x.view(1, shape.c_in, shape.size, shape.size)
    runtime = make_runtime("onnxruntime").prepare(layer.eval(), image)
    yield runtime, {"form": "onnxruntime", **none, "operations": shape.operations}
    for n, sparsity in itertools.product(blocks, sparsities):
        call, about = _sparse(shape, weight, n, sparsity, "ranked", x, y)
        yield call, {"form": "sparse", "n": n, "sparsity": sparsity} | about
    if shape.kernel == 3:
        binary = PackedBinaryConv2d(
            weight > 0, None, None, (shape.size, shape.size), stride=shape.stride, padding=shape.padding
        )
        last, out = x.view(1, *binary.input_shape), y.view(1, *binary.output_shape)
        about = {"form": "binary", **none, "isa": binary.isa.name, "operations": shape.operations}
        yield functools.partial(binary, last, out=out), about


def _sparse(
    shape: Shape, weight: Tensor, n: int, sparsity: float, rows: Rows, x: Tensor, y: Tensor, even_rows: bool = False
) -> tuple[Call, dict[str, Any]]:
    """The block-sparse kernel from the flat buffer x to y, and {"tile", "isa", "operations"}."""
    width = next(m for m in (n, n // 2, n // 4, 1) if m and shape.c_out % m == 0)
    mask = random_block_mask(weight, width, sparsity, generator("benchmark", str(shape), n, sparsity), rows)
    geometry: Any = {"kernel": shape.kernel, "stride": shape.stride, "padding": shape.padding, "even_rows": even_rows}
    size = (shape.c_in, shape.size, shape.size)
    layer = BlockSparseConv2d(encode_bsr(weight, mask, width), torch.zeros(shape.c_out), size, **geometry).tune()
    image, out = x[: shape.inputs].view(1, *size), y[: shape.outputs].view(1, *layer.output_shape)
    kept = round(shape.operations * float(mask.float().mean()))
    return functools.partial(layer, image, out=out), {"tile": layer.tile, "isa": layer.isa.name, "operations": kept}


def dense_forms(shape: Shape, weight: Tensor, x: Tensor, y: Tensor) -> dict[str, Call]:
    """The forms in which torch runs the layer between two flat buffers: layouts, packed weights, for 1x1 matrix products."""
    stride, padding, bias = [shape.stride] * 2, [shape.padding] * 2, torch.zeros(shape.c_out)
    image = x[: shape.inputs].view(1, shape.c_in, shape.size, shape.size)
    last = x[: shape.inputs].view(1, shape.size, shape.size, shape.c_in).permute(0, 3, 1, 2)
    weight_last = weight.contiguous(memory_format=torch.channels_last)
    forms: dict[str, Call] = {
        "NCHW": lambda: F.conv2d(image, weight, bias, shape.stride, shape.padding),
        "channels_last": lambda: F.conv2d(last, weight_last, bias, shape.stride, shape.padding),
    }
    packed = packed_convolution(weight, bias, last.shape, stride, padding)
    if packed is not None:
        forms["packed"] = functools.partial(packed, last)
    if shape.kernel == 1 and shape.stride == 1:
        matrix, pixels, rows = weight.flatten(1), image.flatten(2)[0], last.permute(0, 2, 3, 1).flatten(0, 2)
        transposed = matrix.t().contiguous()
        out, out_last = y[: shape.outputs].view(shape.c_out, -1), y[: shape.outputs].view(-1, shape.c_out)
        forms["GEMM NCHW"] = lambda: torch.addmm(bias[:, None], matrix, pixels, out=out)
        forms["GEMM NHWC"] = lambda: torch.addmm(bias, rows, transposed, out=out_last)
    return forms


def _fastest_dense(shape: Shape, weight: Tensor, x: Tensor, y: Tensor) -> Call:
    forms = dense_forms(shape, weight, x, y)
    return forms[fastest(forms)]


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
