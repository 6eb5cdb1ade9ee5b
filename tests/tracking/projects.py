"""A project with results of stages, and what its MLflow store has of them."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

from compressbench.tracking import store
from tests.conftest import ROOT

TAGS = {"scale": "smoke", "dataset": "digits", "model": "resnet_mini", "method": "optg", "setting": "p95", "seed": "0"}


HASH = "553da6572661fe845a2b958b679f1165.dir"


EXPERIMENT = "compressbench smoke"


LOSSES = (2.0, 1.0, 0.5)


def write(root: Path, stage: str, **changes: Any) -> Path:
    """What a stage leaves: run.json last, and what it measures."""
    tags = TAGS | {"stage": stage} | changes.pop("tags", {})
    pretrain = stage == "pretrain"
    if pretrain:
        tags |= {"method": "pretrain", "setting": "dense"}
    name = f"{tags['scale']}/{tags['dataset']}/{tags['model']}"
    own = (
        f"pretrain/seed{tags['seed']}" if pretrain else f"{tags['method']}/{tags['setting']}/seed{tags['seed']}/{stage}"
    )
    folder = root / "results" / name / own
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    if stage in ("pretrain", "compress", "finetune"):
        rows = "".join(f"{epoch},{loss}\n" for epoch, loss in enumerate(LOSSES))
        (folder / "history.csv").write_text(f"epoch,loss\n{rows}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(b"weights")
        files["model.json"] = {}
    if stage == "evaluate":
        costs = {"params": 100, "macs": 50, "bit_operations": 51_200, "stored_bytes": 70}
        files["metrics.json"] = {"quality": {"top1": 81.25}} | costs
    if stage == "latency":
        measured = {
            "runtime": "torch_eager",
            "threads": 1,
            "dense_ms": {"median": 3.0},
            "compressed_ms": {"median": 2.0},
        }
        speedup = {"median": 1.5, "low": 1.4, "high": 1.6}
        files["latency.json"] = {"measurements": [measured | {"speedup": speedup}], "skipped": []}
    record = {
        "run": tags, "configuration": {"pair": {"images": 64}, "sparsity": 0.95}, "data_hash": HASH, "code_version": "abc123",
        "wall_seconds": 7.0, "peak_memory_mb": 9.0, "started": "2026-01-01T10:00:00+00:00",
        "ended": "2026-01-01T10:00:07+00:00",
    }  # fmt: skip
    for file, content in (files | {"run.json": record | changes}).items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


def make_project(root: Path, empty_store: Path | None) -> Path:
    root.mkdir()
    for name in ("methods", "config", "compressbench", "data.dvc"):
        (root / name).symlink_to(ROOT / name)
    if empty_store:
        shutil.copy(empty_store, root / store.DATABASE)
    return root


def logged(root: Path, *, deleted: bool = False) -> list[Any]:
    """The runs of the store."""
    from mlflow.entities import ViewType

    client = store.connect(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    return list(client.search_runs([experiment.experiment_id], run_view_type=kind))


def of_kind(runs: list[Any], kind: str) -> list[Any]:
    return [run for run in runs if run.data.tags["kind"] == kind]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
