"""Writing into MLflow: in batches, files as links where the store is on this machine."""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from compressbench.tracking.results import Result

BATCH = 90  # MLflow takes 100 parameters or tags, 1000 metrics
METRICS = 900
UPLOAD = 50 * 2**20  # bytes; larger files (models of paper scale) stay where they are when the store is a server


def log(
    client: Any,
    run_id: str,
    metrics: Sequence[Any] = (),
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Log in as few calls as MLflow allows; most runs need one."""
    from mlflow.entities import Param, RunTag

    parameters = [Param(key, value) for key, value in (params or {}).items()]
    labels = [RunTag(key, value) for key, value in (tags or {}).items()]
    while metrics or parameters or labels:
        client.log_batch(run_id, metrics[:METRICS], parameters[: BATCH // 2], labels[: BATCH // 2])
        metrics, parameters, labels = metrics[METRICS:], parameters[BATCH // 2 :], labels[BATCH // 2 :]


def points(rows: Iterable[dict[str, float]], first: int, when: int) -> list[Any]:
    """Metrics of epochs, counted from the step `first`, at a time in milliseconds."""
    from mlflow.entities import Metric

    return [Metric(key, value, when, first + step) for step, row in enumerate(rows) for key, value in row.items()]


def add_files(client: Any, run: Any, files: Iterable[Path]) -> None:
    """Make files artifacts of a run: linked, which takes neither time nor room, where they are on the same file system."""
    location = urlsplit(run.info.artifact_uri)
    if location.scheme not in ("", "file"):
        for file in files:
            if file.stat().st_size <= UPLOAD:
                client.log_artifact(run.info.run_id, str(file))
        return
    folder = Path(url2pathname(location.path) if location.scheme else run.info.artifact_uri)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        _link(file, folder / file.name)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # results are replaced, never changed: the link keeps what was logged
    except OSError:
        shutil.copy(source, target)


def add_dataset(client: Any, run_id: str, result: Result) -> None:
    """Make the data set an input of the run, with DVC's hash or that of a manifest as its digest; nothing for a stage that
    reads no data.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest, stage = result.content.get("data_hash"), result.tags["stage"]
    if not digest or stage == "latency":
        return
    pinned = {"uri": f"data/{result.tags['dataset']}", "pin": "data.dvc"} if digest.endswith(".dir") else {}
    source = json.dumps(pinned or {"name": result.tags["dataset"]})
    context = InputTag("mlflow.data.context", "test" if stage == "evaluate" else "training")
    dataset = Dataset(result.tags["dataset"], digest, "local", source)
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [context])])
