"""Tests of the numbers of a setting, against means and intervals computed by hand."""

import json
from types import SimpleNamespace

import pytest

from tests.reporting.parts import comparison, metrics


def test_quality_and_paired_change(report: SimpleNamespace) -> None:
    base = "fashion_mnist/resnet_mini"
    a, b = (metrics(report, f"{base}/optg/p95/seed{s}")["quality"]["top1"] for s in (0, 1))
    da, db = (metrics(report, f"{base}/dense/default/seed{s}")["quality"]["top1"] for s in (0, 1))
    row = comparison(report, "fashion_mnist_resnet_mini").loc[("optg", "p95")]
    assert row.quality == pytest.approx((a + b) / 2)
    assert row.quality_high - row.quality == pytest.approx(12.706204736 * abs(a - b) / 2)
    assert row.change == pytest.approx(((a - da) + (b - db)) / 2)
    assert row.change_high - row.change == pytest.approx(12.706204736 * abs((a - da) - (b - db)) / 2)
    assert row.kept_weights == round(74_512 * 0.05) and row.density == pytest.approx(0.05, abs=1e-4)


def test_speedup_is_on_the_runtime_where_dense_is_fastest(report: SimpleNamespace) -> None:
    table = comparison(report, "fashion_mnist_plain_mini")
    assert set(table.runtime) == {"onnxruntime"}
    row = table.loc[("one_by_n", "n4_p90")]
    folder = report.results / "desk/fashion_mnist/plain_mini/one_by_n/n4_p90"
    files = [json.loads((folder / f"seed{s}/latency/latency.json").read_text(encoding="utf-8")) for s in (0, 1)]
    single = {
        e: [m for f in files for m in f["measurements"] if (m["runtime"], m["threads"]) == (e, 1)]
        for e in ("onnxruntime", "compressbench")
    }
    assert row.speedup == pytest.approx(sum(m["speedup"]["median"] for m in single["onnxruntime"]) / 2)
    assert row.speedup_low == pytest.approx(min(m["speedup"]["low"] for m in single["onnxruntime"]))
    assert row.fastest_runtime == "compressbench"
    there = sum(m["speedup"]["median"] for m in single["compressbench"]) / 2
    assert row.best_speedup == pytest.approx(there * 0.21 / 0.24), "dense takes 0.21 ms on onnxruntime, 0.24 ms there"
    assert table.loc[("l1_filter", "p90")].density == pytest.approx(0.1, abs=1e-4), (
        "a narrower network, against the dense one's weights"
    )
