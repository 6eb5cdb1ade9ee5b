"""The numbers in the tables against means and intervals computed by hand."""

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.reporting.published import counts_table
from compressbench.reporting.statistics import t_interval
from compressbench.reporting.text import interval, quantity


def test_t_interval_by_hand() -> None:
    """Two values: s = |a - b| / √2, so the half width is t(0.975, 1) · |a - b| / 2 = 12.7062 · |a - b| / 2."""
    pair = t_interval([90.0, 91.0])
    assert pair.mean == 90.5 and pair.n == 2
    assert pair.half == pytest.approx(12.706204736 / 2)
    three = t_interval([1.0, 2.0, 3.0])  # s = 1, t(0.975, 2) = 4.302652730
    assert three.half == pytest.approx(4.302652730 / math.sqrt(3))


def test_one_seed_has_no_interval_and_says_so() -> None:
    single = t_interval([90.25])
    assert math.isnan(single.low)
    assert interval(*single) == "90.25 (n=1)"
    assert interval(*t_interval([])) == "–"


def test_quantities_keep_three_digits() -> None:
    assert [quantity(v) for v in (74_512, 40_813_184, 999_950, 512, float("nan"))] == [
        "74.5 k",
        "40.8 M",
        "1.00 M",
        "512",
        "–",
    ]


def metrics(report: SimpleNamespace, path: str) -> dict:
    return json.loads((report.results / "desk" / path / "evaluate/metrics.json").read_text(encoding="utf-8"))


def comparison(report: SimpleNamespace, name: str) -> pd.DataFrame:
    return pd.read_csv(report.out / f"tables/comparison_{name}.csv").set_index(["method", "setting"])


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


def test_published_values_stand_beside_with_their_model_and_data(report: SimpleNamespace) -> None:
    table = comparison(report, "fashion_mnist_resnet_mini")
    assert table.published["optg", "p98"] == "ResNet-50, ImageNet: 77.01 → 67.20"
    assert table.published["snip", "p98"] == "–"
    text = (report.out / "tables/comparison_fashion_mnist_resnet_mini.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| **OptG** | 98 %"))
    assert "77.01 → 67.20" in line and "2.0 %" in line


def test_the_reference_itself_has_no_change(report: SimpleNamespace) -> None:
    text = (report.out / "tables/comparison_fashion_mnist_resnet_mini.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| Dense |"))
    assert line.split("|")[4].strip() == "–"


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


def test_what_is_equal_in_every_row_is_said_once(report: SimpleNamespace) -> None:
    text = (report.out / "tables/comparison_fashion_mnist_resnet8.md").read_text(encoding="utf-8")
    assert "MACs" not in text.splitlines()[2] and "bit-operations" in text.splitlines()[2]
    assert "The same in every row:" in text and "MACs 12.5 M" in text


def test_overview_has_one_row_per_method_and_group(report: SimpleNamespace) -> None:
    overview = pd.read_csv(report.out / "tables/overview.csv")
    assert not overview.duplicated(["dataset", "model", "method"]).any()
    assert set(zip(overview.model, overview.method, strict=True)) == {(r.model, r.method) for r in report.runs}


def test_records_are_means_over_seeds(report: SimpleNamespace) -> None:
    records = pd.read_csv(report.out / "tables/records.csv").set_index(["setting", "name"])
    assert records["mean"]["w4a4", "diversity_within_class"] == pytest.approx(0.45)
    assert records.n["w4a4", "diversity_within_class"] == 2


def test_latency_table_names_every_runtime_and_what_was_skipped(report: SimpleNamespace) -> None:
    table = pd.read_csv(report.out / "tables/latency_fashion_mnist_plain_mini.csv")
    assert set(table.runtime) == {"torch_eager", "onnxruntime", "compressbench"} and set(table.threads) == {1, 2}
    text = (report.out / "tables/latency_fashion_mnist_plain_mini.md").read_text(encoding="utf-8")
    assert "skipped: L1 filters, 90 %, compressbench: the model has no block-sparse layer" in text
