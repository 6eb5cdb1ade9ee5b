"""Networks beside the float network that they were made from: their own table, sorted by agreement, never called accuracy."""

import json
from pathlib import Path

import pytest

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting import outputs, write
from compressbench.reporting.collect import Results, collect
from compressbench.reporting.fidelity import fidelity_table
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.headline import overview
from compressbench.reporting.published import read_published
from compressbench.reporting.summary import summarize

PAIR = "photograph_crops/efficientnet_lite0"
BITS = {f"w{bits}a{bits}": {"level": {"bits": [bits, bits]}} for bits in (4, 6, 8)}
DECLARATIONS = {
    name: Declaration(
        title=name.title(), paper="none", family=family, task=("classification",), stages=("compress",),
        starts_from="dense", settings=settings, package=f"methods.{name}",
    )
    for name, family, settings in (("minmax", "quantization", BITS), ("dense", "dense", {"checkpoint": {}}))
}  # fmt: skip
RUNS = [Run("desk", *PAIR.split("/"), "minmax", setting, seed) for setting in BITS for seed in (0, 1)]
RUNS += [Run("desk", *PAIR.split("/"), "dense", "checkpoint", seed) for seed in (0, 1)]
AGREEMENT = {"w4a4": 1.0, "w6a6": 50.0, "w8a8": 90.0, "checkpoint": 100.0}
COSTS = ("params", "weights", "kept_weights", "macs", "dense_macs", "bit_operations", "stored_bytes")


def results(root: Path, **more: float) -> Results:
    """Agreement grows with the bits; seed 1 is one point better."""
    for run in RUNS:
        agreement = AGREEMENT[run.setting] + (run.seed if run.method != "dense" else 0)
        quality = {"agreement": agreement, "kl_divergence": 5 - agreement / 20} | more
        if run.method != "dense":
            quality["logits_snr"] = agreement / 4
        file = root / run.folder("evaluate").relative_to("results") / "metrics.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"quality": quality} | dict.fromkeys(COSTS, 1000)), encoding="utf-8")
    return collect(root, "desk", RUNS, {})


def only_group(results: Results) -> Group:
    (group,) = group_runs(RUNS, DECLARATIONS, results.points, [PAIR])
    return group


def test_the_best_agreement_comes_first_with_means_over_seeds(tmp_path: Path) -> None:
    found = results(tmp_path)
    table, text = fidelity_table(only_group(found), found)
    assert list(table.setting) == ["checkpoint", "w8a8", "w6a6", "w4a4"]
    assert list(table.agreement) == [100, 90.5, 50.5, 1.5] and list(table.n) == [2] * 4
    assert table.logits_snr.iloc[1] == pytest.approx(90.5 / 4) and table.logits_snr.isna().tolist()[0]
    assert "| agreement, % |" in text and "top-1" not in text
    assert "Fidelity, not accuracy" in text


def test_accuracy_stands_beside_fidelity_where_it_was_measured(tmp_path: Path) -> None:
    found = results(tmp_path, top1=75.0)
    _, text = fidelity_table(only_group(found), found)
    assert "| top-1, % |" in text and "75.00" in text
    assert set(found.runs.quality) == {1, 2, 50, 51, 90, 91, 100}, "the quality stays the agreement"


def test_before_there_are_results_the_table_says_so(tmp_path: Path) -> None:
    empty = collect(tmp_path, "desk", RUNS, {})
    table, text = fidelity_table(only_group(empty), empty)
    assert table.empty and "No results yet." in text


def test_the_words_of_a_group_are_those_of_its_task(tmp_path: Path) -> None:
    found = results(tmp_path)
    group = only_group(found)
    assert (group.task, group.metric, group.header) == ("fidelity", "agreement", "agreement, %")
    assert group.unit == "points of agreement"
    assert "accuracy" not in group.quality
    _, text = overview([group], [summarize(found, group, read_published(tmp_path, DECLARATIONS))])
    assert "1.50 % agreement" in text
    (labelled,) = group_runs(RUNS, DECLARATIONS)
    assert labelled.task == "classification"


def test_the_report_writes_what_it_announces_and_draws_no_training(tmp_path: Path) -> None:
    results(tmp_path / "results")
    announced = outputs(RUNS, DECLARATIONS, [PAIR])
    out = tmp_path / "out"
    written = write(
        tmp_path / "results", "desk", RUNS, DECLARATIONS, tmp_path / "methods", out, timed={}, unlabelled=[PAIR]
    )
    assert {str(path.relative_to(out)) for path in written} == set(announced)
    slug = PAIR.replace("/", "_")
    assert f"tables/fidelity_{slug}.md" in announced and f"figures/quality_vs_bits_{slug}.png" in announced
    assert not any("training" in name or "time_to_quality" in name for name in announced)
    assert "tables/fidelity" not in "".join(outputs(RUNS, DECLARATIONS))
