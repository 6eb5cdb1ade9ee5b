"""The comparison of int8 blocks has every candidate of every layer, and the networks that it rounds have their blocks."""

import pandas as pd
import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.kernels import native
from compressbench.reporting.kernels import _int8_sections
from compressbench.runtimes.native.integers import block_size, has_integer_blocks
from compressbench.timing import int8_benchmark
from compressbench.timing.benchmark import Shape


def test_rounded_networks_keep_their_blocks_and_nearly_their_outputs() -> None:
    torch.manual_seed(0)
    model = models.build("resnet_cifar", blocks=[1, 1], widths=[16, 32], classes=10).eval()
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        dense = int8_benchmark.rounded_blocks(model, 1, 0.0, images)
        error = (dense(images) - model(images)).norm() / model(images).norm()
        sparse = int8_benchmark.rounded_blocks(model, 4, 0.75, images)
    assert error < 0.1
    assert not has_integer_blocks(dense)
    assert has_integer_blocks(sparse)
    layers = [m for m in sparse.modules() if isinstance(m, nn.Conv2d)]
    assert all(block_size(layer.effective_weight()) == 4 for layer in layers[1:] if layer.kernel_size == (3, 3))


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_a_layer_is_timed_in_every_form() -> None:
    pytest.importorskip("openvino")
    timers = int8_benchmark._layer_timers(Shape(16, 24, 8, stride=2))
    rows = pd.DataFrame(int8_benchmark._interleaved(timers, 1))
    assert list(rows["form"]) == ["openvino_int8"] + 4 * ["blocks"]
    assert set(rows["n"]) == {0, 4, 16}
    assert (rows["min_ms"] > 0).all()
    assert (rows["median_ms"] >= rows["min_ms"]).all()


def test_the_table_has_the_ratios_of_the_sums() -> None:
    def row(layer: str, count: int, form: str, n: int, ms: float) -> dict:
        sparsity = 0.75 if n else 0.0
        return {
            "network": "ResNet-50", "layer": layer, "count": count, "form": form, "n": n, "sparsity": sparsity,
            "min_ms": ms, "median_ms": ms,
        }  # fmt: skip

    whole = int8_benchmark.ALL
    frame = pd.DataFrame([
        row("a", 2, "openvino_int8", 0, 3.0), row("a", 2, "blocks", 16, 1.0), row("b", 1, "openvino_int8", 0, 2.0),
        row("b", 1, "blocks", 16, 2.0), row(whole, 1, "openvino_int8", 0, 9.0), row(whole, 1, "openvino", 0, 30.0),
        row(whole, 1, "onnxruntime", 0, 27.0), row(whole, 1, "blocks", 16, 4.5),
    ])  # fmt: skip
    _, table, _ = _int8_sections(frame)
    layers, network = table.splitlines()[2:]
    assert "pointwise" in layers
    assert "2.00" in layers  # (2 x 3 + 2) / (2 x 1 + 2)
    assert "2.00" in network  # 9 / 4.5
    assert "6.00" in network  # 27 / 4.5


def test_nothing_is_said_without_measurements() -> None:
    assert _int8_sections(pd.DataFrame()) == []
