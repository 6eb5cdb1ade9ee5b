"""The smoke DAG, end to end, with the real Snakemake, DVC and MLflow."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from compressbench.plan import Plan
from tests.conftest import Command, copy_tree, run_module
from tests.pipeline.conftest import Smoke, snakemake

pytestmark = pytest.mark.pipeline


def test_it_succeeds_in_under_eight_minutes(smoke: Smoke) -> None:
    assert smoke.process.returncode == 0, smoke.process.stderr[-3000:]
    assert smoke.seconds < 480


def test_every_run_has_every_result(smoke: Smoke) -> None:
    plan = Plan(smoke.root, "smoke")
    for run in plan.runs:
        for stage in plan.stages(run):
            content = json.loads((smoke.root / run.folder(stage) / "run.json").read_text(encoding="utf-8"))
            assert content["seed"] == run.seed
            assert content["configuration_hash"] == plan.job(run, stage).digest
            assert {
                "data_hash",
                "code_version",
                "packages",
                "machine",
                "threads",
                "wall_seconds",
                "peak_memory_mb",
            } <= content.keys()
        metrics = json.loads((smoke.root / run.folder("evaluate") / "metrics.json").read_text(encoding="utf-8"))
        for own in metrics.get("points", {"": metrics}).values():
            assert own["quality"] and own["params"] >= 0 and own["stored_bytes"] >= 0


def test_sparse_networks_and_no_others_leave_with_recomputed_statistics(smoke: Smoke) -> None:
    plan = Plan(smoke.root, "smoke")
    families = set()
    for run in plan.runs:
        record = json.loads(
            (smoke.root / run.folder(plan.final_stage(run)) / "record.json").read_text(encoding="utf-8")
        )
        declared = plan.declarations[run.method]
        own = declared.is_sparse and run.setting not in declared.network_from  # those have got them before
        assert ("validation_top1_after_recalibration" in record) == own, run.name
        families.add(declared.family)
    assert {"unstructured", "block", "filter", "dense"} <= families


def test_a_second_call_has_nothing_to_do(smoke: Smoke) -> None:
    again = snakemake(smoke.root, "-n", "--config", "scale=smoke")
    assert "Nothing to be done" in again.stdout + again.stderr


def mlflow_runs(root: Path, store: str = "mlflow.db") -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / store}")
    experiment = client.get_experiment_by_name("compressbench smoke")
    return client, list(client.search_runs([experiment.experiment_id], max_results=5000))


def test_every_network_is_an_mlflow_run_and_every_stage_is_nested_in_it(smoke: Smoke) -> None:
    client, runs = mlflow_runs(smoke.root)
    assert {r.info.status for r in runs} == {"FINISHED"}
    plan = Plan(smoke.root, "smoke")
    names = {r.info.run_id: r.data.tags["run"] for r in runs if r.data.tags["kind"] == "run"}
    assert {r.name for r in plan.runs} <= set(names.values())
    keys = ("dataset", "model", "method", "setting", "seed", "stage")
    expected = {(r.dataset, r.model, r.method, r.setting, str(r.seed), s) for r in plan.runs for s in plan.stages(r)}
    stages = [r for r in runs if r.data.tags["kind"] == "stage"]
    assert {tuple(r.data.tags[k] for k in keys) for r in stages} == expected and len(stages) == len(expected)
    assert all(names[r.data.tags["mlflow.parentRunId"]] == r.data.tags["run"] for r in stages)
    evaluated = [r for r in runs if r.data.tags["kind"] == "run" and r.data.tags["method"] != "pretrain"]
    assert all({"quality", "stored_bytes", "macs", "params"} <= r.data.metrics.keys() for r in evaluated)
    training = next(r for r in runs if r.data.tags.get("stage") == "pretrain" and r.data.tags["model"] == "resnet_mini")
    assert (
        len(client.get_metric_history(training.info.run_id, "loss"))
        == plan.scale.pairs["digits/resnet_mini"].pretrain.epochs
    )
    assert training.data.params
    files = {a.path for a in client.list_artifacts(training.info.run_id)}
    assert {"run.json", "history.csv", "model.safetensors"} <= files


def test_the_report_is_complete_and_names_nothing_missing(smoke: Smoke) -> None:
    out = smoke.root / "results/smoke/report"
    assert "nothing is missing" in (out / "tables/missing.md").read_text(encoding="utf-8").lower()
    assert "Nothing: every expected result is there." in (out / "index.html").read_text(encoding="utf-8")
    assert list((out / "figures").glob("*.png")) and list((out / "figures").glob("*.svg"))


def test_snakemake_renders_one_self_contained_page(smoke: Smoke) -> None:
    process = run_module(smoke.root, "--report", "report.html", "--config", "scale=smoke", module="snakemake")
    assert process.returncode == 0, process.stderr[-2000:]
    assert (smoke.root / "report.html").stat().st_size > 100_000


def result_hashes(root: Path) -> dict[str, str]:
    """sha256 of every model, synthetic image set and metrics file."""
    patterns = (
        "model.safetensors",
        "model.json",
        "synthetic.safetensors",
        "metrics.json",
        "history.csv",
        "record.json",
    )
    files = sorted(p for pattern in patterns for p in (root / "results/smoke").rglob(pattern))
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_second_run_gives_the_same_bits(smoke: Smoke, tmp_path: Path, data_root: Path) -> None:
    """Models and metrics, not the latency: only the stages up to evaluate run again."""
    root = copy_tree(tmp_path, data_root)
    plan = Plan(root, "smoke")
    targets = [str(run.folder("evaluate") / "metrics.json") for run in plan.runs]
    process = snakemake(root, *targets, "--config", "scale=smoke")
    assert process.returncode == 0, process.stderr[-3000:]
    first, second = result_hashes(smoke.root), result_hashes(root)
    assert len(second) > 50
    assert {name for name in second if first.get(name) != second[name]} == set()


def test_a_failing_method_leaves_the_others_and_is_named(smoke: Smoke, tmp_path: Path, data_root: Path) -> None:
    root = copy_tree(tmp_path, data_root)
    broken = root / "methods/baselines/random/method.py"
    broken.write_text(
        broken.read_text(encoding="utf-8").replace("def compress(self, ctx", "def compress(self, ctx, missing"),
        encoding="utf-8",
    )
    process = snakemake(root, "--keep-going", "--config", "scale=smoke", "methods=[random,snip]")
    assert process.returncode != 0
    assert list(root.glob("results/smoke/digits/resnet_mini/snip/*/seed0/evaluate/metrics.json"))
    missing = (root / "results/smoke/incomplete_report/tables/missing.md").read_text(encoding="utf-8")
    assert "random" in missing and "snip" not in missing


def test_a_store_that_cannot_be_used_is_one_warning_of_the_dag(smoke: Smoke, tmp_path: Path, data_root: Path) -> None:
    root = copy_tree(tmp_path, data_root)
    target = "results/smoke/digits/plain_mini/pretrain/seed0/model.safetensors"
    start = time.monotonic()
    process = snakemake(root, target, "--config", "scale=smoke", env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert process.returncode == 0, process.stderr[-2000:]
    assert time.monotonic() - start < 120
    assert process.stderr.count("the runs are not tracked") == 1
    assert "no MLflow server answers at http://127.0.0.1:9" in process.stderr
    assert "tracking is off" not in "".join(log.read_text(encoding="utf-8") for log in root.glob("logs/**/*.log"))
    for name in ("model.safetensors", "history.csv"):
        folder = Path("results/smoke/digits/plain_mini/pretrain/seed0")
        assert (root / folder / name).read_bytes() == (smoke.root / folder / name).read_bytes()


def test_a_lost_store_is_rebuilt_from_the_results(smoke: Smoke, cli: Command, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'new.db'}"
    process = cli(smoke.root, "tracking", env={"MLFLOW_TRACKING_URI": store})
    results = len(list(smoke.root.glob("results/**/run.json")))
    assert process.returncode == 0, process.stderr[-2000:]
    assert f"{results} results logged; it has {results} of {results}" in process.stdout
    again = cli(smoke.root, "tracking", env={"MLFLOW_TRACKING_URI": store})
    assert f"0 results logged; it has {results} of {results}" in again.stdout
    _, runs = mlflow_runs(tmp_path, "new.db")
    evaluated = [r for r in runs if r.data.tags.get("stage") == "evaluate"]
    assert evaluated and all("stored_bytes" in r.data.metrics for r in evaluated)
