"""The kernel benchmark on a small network, and what its page says about numbers that are known."""

import importlib.util

import pandas as pd
import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.errors import UserError
from compressbench.kernels import native
from compressbench.reporting.kernels import write_kernels
from compressbench.timing import benchmark
from compressbench.timing.latency import interleaved_times
from tests.conftest import ROOT

PUBLISHED = ROOT / "methods/one_by_n/published.csv"


def installed(*packages: str) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package)]


TINY = {"blocks": [1, 1], "widths": [16, 32], "shortcut": "conv", "classes": 10}


def twice(calls, rounds, warmup, rng, window=0.0):
    """As `interleaved_times`, in two rounds."""
    return interleaved_times(calls, 2, 1, rng, window=0.0)


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_it_measures_layers_sequences_and_networks_and_writes_a_page(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "NETWORKS", {"tiny": ("resnet_cifar", TINY, (3, 16, 16))})
    monkeypatch.setattr(benchmark, "END_TO_END", ("tiny",))
    monkeypatch.setattr(benchmark, "IN_BATCHES", ("tiny",))
    binary = {"in_channels": 3, "blocks": [1, 1], "widths": [16, 32], "classes": 10}
    pair = benchmark.BinaryNetwork(("binary_resnet_cifar", binary), ("resnet_cifar", TINY), (3, 16, 16))
    monkeypatch.setattr(benchmark, "BINARY", {"tiny": pair})
    monkeypatch.setattr(benchmark, "STRETCH", 1e-3)
    monkeypatch.setattr(benchmark.machine, "usable_cores", lambda: 2)
    network = benchmark.convolutions("tiny")
    assert [str(shape) for shape in network] == [
        "16->16@16 3x3", "16->16@16 3x3", "16->32@16 3x3 /2", "32->32@8 3x3", "16->32@16 /2",
    ]  # fmt: skip
    every_kind = [*network[2:4], benchmark.Shape(32, 16, 8), benchmark.Shape(16, 24, 7)]
    monkeypatch.setattr(benchmark, "convolutions", lambda _: every_kind)
    monkeypatch.setattr(benchmark, "interleaved_times", twice)
    frames = benchmark.measure(["tiny"])
    layers = frames["layers"]
    sparse = layers[layers["form"] == "sparse"]
    assert set(sparse["isa"]) == {native.best_isa().name}
    assert sparse["tile"].str.fullmatch(r"\d+x\d+").all()
    assert (layers["min_ms"] > 0).all()
    assert {"NCHW", "channels_last", "GEMM NHWC", "onnxruntime", "binary", "peak"} <= set(layers["form"])
    dense = {"torch_eager", "torch_compiled", "onnxruntime", "compressbench"} | set(installed("openvino"))
    assert set(frames["networks"]["runtime"]) == dense
    assert set(frames["batches"]["runtime"]) == dense - {"torch_compiled"}
    assert set(frames["batches"]["batch"]) == {8, 32}
    assert set(frames["threads"]["threads"]) == {2}
    assert {"dense", "binary"} <= set(frames["binary"]["form"]) and set(frames["binary"]["threads"]) == {1, 2}
    assert set(zip(frames["scaling"]["rows"], frames["scaling"]["share"], strict=True)) == {
        ("ranked", "work"), ("ranked", "rows"), ("uniform", "work"), ("uniform", "rows"),
    }  # fmt: skip
    written = write_kernels(frames, PUBLISHED, "a machine", tmp_path)
    assert all(path.exists() for path in written)
    page = (tmp_path / "tables/kernels.md").read_text(encoding="utf-8")
    for heading in ("Binary convolutions", "In sequence", "End to end", "Batches", "More threads"):
        assert f"## {heading}" in page
    assert "| tiny 3x3" in page and "over int8" in page


def test_unknown_networks_are_named() -> None:
    with pytest.raises(UserError, match="unknown network 'AlexNet': choose from MobileNet-V2"):
        benchmark.measure(["AlexNet"])


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "is_built", lambda: False)
    with pytest.raises(UserError, match="install a C\\+\\+ compiler"):
        benchmark.measure(["ResNet-18"])


def test_sums_compare_with_the_best_dense_form_of_every_layer() -> None:
    same = {
        "network": "net",
        "kernel": 1,
        "threads": 1,
        "tile": "",
        "isa": "",
        "median_ms": 0.0,
        "n": 0,
        "sparsity": 0.0,
    }
    rows = [
        same | {"layer": layer, "count": count, "form": form, "operations": work, "min_ms": ms}
        for layer, count, form, work, ms in [
            ("a", 2, "NCHW", 100, 4.0), ("a", 2, "packed", 100, 3.0), ("a", 2, "peak", 50, 1.0),
            ("b", 1, "NCHW", 200, 2.0), ("b", 1, "packed", 200, 5.0), ("b", 1, "peak", 40, 1.0),
        ]
    ]  # fmt: skip
    rows += [
        same | {"layer": layer, "count": count, "form": "sparse", "operations": work, "min_ms": ms, "n": 4, "sparsity": 0.75}
        for layer, count, work, ms in [("a", 2, 25, 1.0), ("b", 1, 50, 2.0)]
    ]  # fmt: skip
    (row,) = benchmark.sums(pd.DataFrame(rows)).to_dict("records")
    assert row["dense_ms"] == 2 * 3.0 + 2.0
    assert row["speedup"] == pytest.approx(8 / 4)
    assert row["peak_share"] == pytest.approx((2 * 25 + 50) / 4 / 50)


def test_a_network_in_int8_is_close_to_itself() -> None:
    torch.manual_seed(0)
    model = models.build("resnet_cifar", **TINY).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        quantized = benchmark.eight_bits(model, x)
        assert float((quantized(x) - expected).norm() / expected.norm()) < 0.05
    assert all(layer.weight_bits == 8 for layer in quantized.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
