"""Tests of published numbers, beside the measured and the recomputed ones."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.reporting.published import counts_table
from tests.reporting.parts import comparison


def test_published_values_stand_beside_with_their_model_and_data(report: SimpleNamespace) -> None:
    table = comparison(report, "fashion_mnist_resnet_mini")
    assert table.published["optg", "p98"] == "ResNet-50, ImageNet: 77.01 → 67.20"
    assert table.published["snip", "p98"] == "–"
    text = (report.out / "tables/comparison_fashion_mnist_resnet_mini.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| **OptG** | 98 %"))
    assert "77.01 → 67.20" in line and "2.0 %" in line


def test_facts_agree_to_the_last_printed_digit(report: SimpleNamespace) -> None:
    recomputed = pd.read_csv(report.out / "tables/published_counts.csv", keep_default_na=False)
    assert list(recomputed.verdict) == ["ok", "differs", "not published"]
    assert float(recomputed.difference[1]) == pytest.approx(204_459_212 - 221e6)
    text = (report.out / "tables/published_counts.md").read_text(encoding="utf-8")
    assert "1 agree to the last printed digit, 1 differ, 1 have no published value." in text


@pytest.mark.parametrize(
    ("printed", "recomputed", "verdict"),
    [
        ("408.9e6", 408_940_000, "ok"),
        ("408.9e6", 408_960_000, "differs"),
        ("74.5", 74.549, "ok"),
        ("17", 17.6, "differs"),
        ("5", 5.0, "ok"),
    ],
)
def test_rounding_of_a_published_number(tmp_path, printed: str, recomputed: float, verdict: str) -> None:  # type: ignore[no-untyped-def]
    keys = {"method": "m", "model": "n", "setting": "s", "metric": "macs"}
    (tmp_path / "counts.json").write_text(json.dumps([keys | {"value": recomputed}]), encoding="utf-8")
    published = pd.DataFrame([keys | {"dataset": "d", "value": printed, "source": "table 1"}])
    assert list(counts_table(tmp_path / "counts.json", published).verdict) == [verdict]
