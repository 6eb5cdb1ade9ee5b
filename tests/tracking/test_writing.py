"""Tests of writing into MLflow: artifacts and batches."""

from pathlib import Path
from typing import Any

from compressbench.tracking import store, writing
from tests.tracking.projects import logged


def test_artifacts_of_a_local_store_take_no_room(optg: Path) -> None:
    (stage,) = [run for run in logged(optg) if run.data.tags.get("stage") == "compress"]
    artifact = optg / store.ARTIFACTS / stage.info.run_id / "artifacts" / "model.safetensors"
    assert artifact.samefile(optg / "results/smoke/digits/resnet_mini/optg/p95/seed0/compress/model.safetensors")


class Recorder:
    """Stands for a client: keeps what every call of log_batch logs."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Any], list[Any], list[Any]]] = []

    def log_batch(self, run_id: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> None:
        self.calls.append((list(metrics), list(params), list(tags)))


def test_everything_is_logged_once_and_no_call_exceeds_the_limits_of_mlflow() -> None:
    client = Recorder()
    metrics = writing.points([{"loss": float(i)} for i in range(2500)], 0, 1)
    params = {f"p{i}": str(i) for i in range(150)}
    writing.log(client, "run", metrics, params, {"kind": "stage"})
    assert all(len(m) <= 1000 and len(p) + len(t) <= 100 for m, p, t in client.calls)
    assert [point.value for m, _, _ in client.calls for point in m] == [float(i) for i in range(2500)]
    assert {param.key: param.value for _, p, _ in client.calls for param in p} == params
    assert [(tag.key, tag.value) for _, _, t in client.calls for tag in t] == [("kind", "stage")]


def test_epochs_are_counted_from_the_first_step() -> None:
    drawn = writing.points([{"loss": 2.0, "top1": 10.0}, {"loss": 1.0}], 5, 1000)
    assert [(p.key, p.value, p.step, p.timestamp) for p in drawn] == [
        ("loss", 2.0, 5, 1000), ("top1", 10.0, 5, 1000), ("loss", 1.0, 6, 1000),
    ]  # fmt: skip
