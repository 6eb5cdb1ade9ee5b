"""Tests of the tables of records and latencies."""

from types import SimpleNamespace

import pandas as pd
import pytest


def test_records_are_means_over_seeds(report: SimpleNamespace) -> None:
    records = pd.read_csv(report.out / "tables/records.csv").set_index(["setting", "name"])
    assert records["mean"]["w4a4", "diversity_within_class"] == pytest.approx(0.45)
    assert records.n["w4a4", "diversity_within_class"] == 2


def test_latency_table_names_every_runtime_and_what_was_skipped(report: SimpleNamespace) -> None:
    table = pd.read_csv(report.out / "tables/latency_fashion_mnist_plain_mini.csv")
    assert set(table.runtime) == {"torch_eager", "onnxruntime", "compressbench"} and set(table.threads) == {1, 2}
    text = (report.out / "tables/latency_fashion_mnist_plain_mini.md").read_text(encoding="utf-8")
    assert "skipped: L1 filters, 90 %, compressbench: the model has no block-sparse layer" in text
