"""MLflow: every stage of every run is a run, with parameters, per-epoch metrics, artifacts and tags.

The files under results/ are the truth and MLflow is a view of them. A stage that trains is tracked live, from its first
epoch on. What has no epochs (evaluation, latency, one-shot compression) is over in seconds, and importing MLflow would take
as long again: `synchronise` logs it afterwards, in one process, and rebuilds a store that was lost. A failure here is logged
once and never stops a stage.
"""

import csv
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressbench.errors import UserError
from compressbench.files import read_json

log = logging.getLogger(__name__)
EXPERIMENT = "compressbench"
ARTIFACTS = (".json", ".csv", ".png")
RESULT_TAG = "result"  # folder and hash of run.json: tells a logged result from one that is not in the store yet


def uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the SQLite file mlflow.db of the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def _client(root: Path) -> Any:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri(root))


def initialise(root: Path) -> None:
    """Create the store and the experiment. Runs once, before any parallel job: first connections race on the schema."""
    client = _client(root)
    if client.get_experiment_by_name(EXPERIMENT) is None:
        location = None if os.environ.get("MLFLOW_TRACKING_URI") else (root.resolve() / "mlartifacts").as_uri()
        client.create_experiment(EXPERIMENT, artifact_location=location)


class Tracker:
    """One MLflow run, created when the first metrics arrive. The first failure is logged and switches the tracker off.

    Args:
        tags: scale, dataset, model, method, setting, seed, stage; their values are the run's name.
        parameters: the configuration; nested keys are joined by dots.
    """

    def __init__(self, root: Path, tags: dict[str, str], parameters: dict[str, Any]):
        self.root, self.tags, self.parameters = root, tags, parameters
        self._client: Any = None
        self._run_id = ""
        self._failed = False

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log finite numbers at a step (epoch)."""
        if not self._run_id:
            self._guard(self._start)
        self._guard(lambda: self._log(values, step))

    def complete(self, folder: Path) -> None:
        """Log what `folder` holds beyond the history, mark the run as its result, and end it. Nothing if never started."""
        if not self._run_id:
            return
        for file in sorted(p for p in folder.iterdir() if p.suffix in ARTIFACTS):
            self._guard(lambda file=file: self._client.log_artifact(self._run_id, str(file)))  # type: ignore[misc]
        self._guard(lambda: self._log(final_metrics(folder), 0))
        self._guard(lambda: self._client.set_tag(self._run_id, RESULT_TAG, identity(self.root, folder)))
        self._guard(lambda: self._client.set_terminated(self._run_id, "FINISHED"))

    def fail(self) -> None:
        """End the run as FAILED, if it was started."""
        if self._run_id:
            self._guard(lambda: self._client.set_terminated(self._run_id, "FAILED"))

    def _guard(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # MLflow raises its own, SQLAlchemy's, and requests' errors
            self._failed = True
            reason = str(error).split("\n")[0]
            log.warning("MLflow tracking is off for the rest of this stage (results are not affected): %s", reason)

    def _start(self) -> None:
        from mlflow.entities import Param

        self._client = _client(self.root)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise RuntimeError(f"{uri(self.root)} has no experiment {EXPERIMENT!r}; run `compressbench tracking`")
        name = "/".join(self.tags.values())
        self._run_id = self._client.create_run(experiment.experiment_id, tags=self.tags, run_name=name).info.run_id
        parameters = [Param(key, str(value)[:6000]) for key, value in flat(self.parameters).items()]
        self._client.log_batch(self._run_id, params=parameters)

    def _log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = [Metric(k, float(v), now, step) for k, v in values.items() if math.isfinite(v)]
        self._client.log_batch(self._run_id, metrics=finite)


@contextmanager
def tracked(root: Path, tags: dict[str, str], parameters: dict[str, Any]) -> Iterator[Tracker]:
    """A tracker whose run ends as FAILED when the block raises; the block calls `complete`."""
    tracker = Tracker(root, tags, parameters)
    try:
        yield tracker
    except BaseException:
        tracker.fail()
        raise


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"pair": {"patch": 8}} -> {"pair.patch": 8}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def identity(root: Path, folder: Path) -> str:
    """The folder of a result and the hash of its run.json."""
    digest = hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()[:12]
    return f"{folder.resolve().relative_to(root.resolve())}@{digest}"


def final_metrics(folder: Path) -> dict[str, float]:
    """The single numbers of a result: of run.json, record.json, metrics.json and latency.json."""
    run = read_json(folder / "run.json")
    values: dict[str, float] = {key: run[key] for key in ("wall_seconds", "peak_memory_mb")}
    if (folder / "record.json").exists():
        values |= read_json(folder / "record.json")
    if (folder / "metrics.json").exists():
        for at, measured in _by_point(read_json(folder / "metrics.json")):
            numbers = {**measured, **measured.get("quality", {})}
            values |= {at + k: v for k, v in numbers.items() if isinstance(v, int | float)}
    if (folder / "latency.json").exists():
        for at, measured in _by_point(read_json(folder / "latency.json")):
            values |= {name: times["median"] for name, times in measured.get("switching", {}).items()}
            if "blocks" in measured:
                values["block_sums_rank_correlation"] = measured["blocks"]["rank_correlation"]
            for m in measured.get("measurements", []):
                name = f"{at}{m['executor']}.{m['threads']}"
                values |= {f"{name}.ms": m["compressed_ms"]["median"], f"{name}.speedup": m["speedup"]["median"]}
    return values


def _by_point(content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(prefix, numbers): what the whole model has, and what each of its operating points has."""
    return [("", content), *((f"{point}.", own) for point, own in content.get("points", {}).items())]


def _history(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def synchronise(root: Path) -> int:
    """Log every finished result under results/ that the store does not have yet; returns how many."""
    client = _client(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    known, token = set(), None
    while token is None or token:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token or None)
        known |= {run.data.tags.get(RESULT_TAG) for run in page}
        token = page.token or ""
    logged = 0
    for file in sorted(root.glob("results/**/run.json")):
        folder = file.parent
        if identity(root, folder) in known:
            continue
        try:
            run = read_json(file)
            tracker = Tracker(root, run["run"], run["configuration"])
            rows = _history(folder) if (folder / "history.csv").exists() else []
        except UserError as error:
            log.warning("not logged: %s", error)
            continue
        for step, row in enumerate(rows or [{}]):
            tracker.metrics({key: value for key, value in row.items() if key != "epoch"}, step)
        tracker.complete(folder)
        logged += 1
    return logged
