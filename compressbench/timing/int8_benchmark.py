"""1xN blocks in int8 against OpenVINO's int8, layer by layer and end to end (part of `make bench-kernels`).

All candidates run interleaved in one process. Of OpenVINO's single layers the time is that of its own counters, between the
uint8 that it reads and writes.
"""

import copy
import itertools
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.kernels import native
from compressbench.kernels.block_int8 import BlockInt8Conv2d
from compressbench.layers.folding import fold_norms
from compressbench.pruning.blocks import encode_bsr, prunable_layers, random_block_mask, weights_of
from compressbench.runtimes.base import Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.seeding import generator
from compressbench.timing.benchmark import NETWORKS, Shape, convolutions, eight_bits
from compressbench.timing.latency import measuring

POINTWISE = ("ResNet-50", "MobileNet-V2")
WHOLE = ("ResNet-50",)
DENSE = ("openvino_int8", "openvino", "onnxruntime", "compressbench")
ALL = "whole network"
Timer = Callable[[], float]
"""Runs once and returns milliseconds."""


def measure(networks: Sequence[str], rounds: int = 15) -> pd.DataFrame:
    """One row per (network, layer or `ALL`, form, n, sparsity) with one thread: {"count", "min_ms", "median_ms"}.

    form: "blocks", or the name of a runtime, which runs the dense layer or network. Empty without OpenVINO.
    """
    try:
        import openvino  # noqa: F401
    except ImportError:
        print("int8 blocks are not compared: openvino is not installed (the extra `openvino`).")
        return pd.DataFrame()
    rows: list[dict[str, Any]] = []
    with measuring(1):
        for network in (name for name in POINTWISE if name in networks):
            for shape, count in Counter(convolutions(network)).items():
                if shape.kernel == 1:
                    own = _interleaved(_layer_timers(shape), rounds)
                    rows += [{"network": network, "layer": str(shape), "count": count} | row for row in own]
        for network in (name for name in WHOLE if name in networks):
            own = _interleaved(_network_timers(network), rounds)
            rows += [{"network": network, "layer": ALL, "count": 1} | row for row in own]
    return pd.DataFrame(rows)


def rounded_blocks(model: nn.Module, n: int, sparsity: float, images: Tensor) -> nn.Module:
    """A copy with random 1xN blocks, then 8-bit weights per channel and inputs on the extremes that these images show."""
    network = fold_norms(copy.deepcopy(model).eval()).requires_grad_(False)
    rng = generator("int8 blocks", n, sparsity)
    for weight in weights_of(network, prunable_layers(network)).values():
        width = next(m for m in (n, n // 2, n // 4, 1) if m and len(weight) % m == 0)
        weight.mul_(random_block_mask(weight, width, sparsity, rng))
    return eight_bits(network, images)


def _interleaved(timers: dict[tuple[str, int, float], Timer], rounds: int) -> list[dict[str, Any]]:
    times: dict[tuple[str, int, float], list[float]] = defaultdict(list)
    for timer in timers.values():
        timer()
    for _ in range(rounds):
        for name, timer in timers.items():
            timer()  # what another one left in the caches is not timed
            times[name] += [timer() for _ in range(5)]
    return [
        {"form": form, "n": n, "sparsity": sparsity, "min_ms": min(own), "median_ms": statistics.median(own)}
        for (form, n, sparsity), own in times.items()
    ]


def _timed(call: Callable[[], Any]) -> Timer:
    def timer() -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    return timer


def _layer_timers(shape: Shape) -> dict[tuple[str, int, float], Timer]:
    rng = generator("int8 blocks", str(shape))
    weight = torch.randint(-127, 128, (shape.c_out, shape.c_in, 1, 1), generator=rng, dtype=torch.int8)
    timers: dict[tuple[str, int, float], Timer] = {("openvino_int8", 0, 0.0): _openvino_layer(shape, weight)}
    for n, sparsity in itertools.product((4, 16), (0.75, 0.9)):
        width = next(m for m in (n, n // 2, n // 4, 1) if m and shape.c_out % m == 0)
        blocks = encode_bsr(weight, random_block_mask(weight, width, sparsity, rng), width)
        scale, size = torch.full((shape.c_out,), 1e-3), (shape.c_in, shape.size, shape.size)
        layer = BlockInt8Conv2d(blocks, scale, None, size, stride=shape.stride, padding=shape.padding).tune()
        x = torch.randint(256, (1, *size), generator=rng, dtype=torch.uint8)
        step = layer.step(x, torch.empty(1, *layer.output_shape, dtype=torch.uint8))
        timers["blocks", n, sparsity] = _timed(native.program([step]))
    return timers


def _openvino_layer(shape: Shape, weight: Tensor) -> Timer:
    """The dense layer between two roundings; a second convolution lets the first one write uint8."""
    import openvino
    from openvino import opset13 as op

    def rounded(x: Any, high: float) -> Any:
        return op.fake_quantize(x, *(np.float32(bound) for bound in (0, high, 0, high)), 256)

    def convolved(x: Any, weight: Any, stride: int) -> Any:
        values = op.multiply(op.convert(op.constant(weight), np.float32), op.constant(np.float32(0.01)))
        return op.convolution(x, values, [stride] * 2, [0, 0], [0, 0], [1, 1])

    image = op.parameter([1, shape.c_in, shape.size, shape.size], np.float32)
    y = rounded(op.relu(convolved(rounded(image, 255.0), weight.numpy(), shape.stride)), 2550.0)
    y = convolved(y, np.ones((16, shape.c_out, 1, 1), np.int8), 1)
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERF_COUNT": True}
    compiled = openvino.Core().compile_model(openvino.Model([op.result(y)], [image]), "CPU", options)
    request = compiled.create_infer_request()
    x = torch.randint(256, (1, shape.c_in, shape.size, shape.size), generator=generator("int8 blocks", "input"))
    request.set_input_tensor(openvino.Tensor(x.float().numpy()))

    def timer() -> float:
        request.infer()
        own = (info for info in request.profiling_info if info.node_type == "Convolution")
        return 1e3 * float(next(own).real_time.total_seconds())

    return timer


def _network_timers(network: str, n: int = 16, sparsity: float = 0.75) -> dict[tuple[str, int, float], Timer]:
    architecture, arguments, input_size = NETWORKS[network]
    torch.manual_seed(0)
    dense = models.build(architecture, **arguments).eval().requires_grad_(False)
    images = torch.randn(8, *input_size, generator=generator("int8 blocks", network))
    timers: dict[tuple[str, int, float], Timer] = {}
    for name in DENSE:
        model = rounded_blocks(dense, 1, 0.0, images) if name == "openvino_int8" else dense
        try:
            timers[name, 0, 0.0] = _timed(make_runtime(name).prepare(model, images[:1]))
        except Skip as reason:
            print(f"{name} is left out: {reason}")
    model = rounded_blocks(dense, n, sparsity, images)
    timers["blocks", n, sparsity] = _timed(make_runtime("compressbench").prepare(model, images[:1]))
    return timers
