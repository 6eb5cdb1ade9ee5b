"""MLflow: every stage of every run is a run, with parameters, per-epoch metrics, artifacts and tags.

The files under results/ are the truth, MLflow is a view of them: a failure here is logged once and never stops a stage.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
EXPERIMENT = "compressbench"


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
    """One MLflow run. The first failure is logged and switches the tracker off."""

    def __init__(self, root: Path, name: str, tags: dict[str, str], parameters: dict[str, Any]):
        self._client: Any = None
        self._run_id = ""
        self._guard(lambda: self._start(root, name, tags, parameters))

    def _start(self, root: Path, name: str, tags: dict[str, str], parameters: dict[str, Any]) -> None:
        from mlflow.entities import Param

        client = _client(root)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise RuntimeError(f"the store {uri(root)} has no experiment {EXPERIMENT!r}")
        self._run_id = client.create_run(experiment.experiment_id, tags=tags, run_name=name).info.run_id
        self._client = client
        client.log_batch(self._run_id, params=[Param(k, str(v)[:6000]) for k, v in parameters.items()])

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # MLflow raises its own, SQLAlchemy's, and requests' errors
            self._client = None
            log.warning(
                "MLflow tracking is off for the rest of this stage (results are not affected): %s",
                str(error).split("\n")[0],
            )

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log finite numbers at a step (epoch)."""
        if self._client is None:
            return
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(k, float(v), now, step) for k, v in values.items() if math.isfinite(v)]
        self._guard(lambda: self._client.log_batch(self._run_id, metrics=batch))

    def artifacts(self, files: list[Path]) -> None:
        """Copy the files that exist to the run's artifact store."""
        for file in files:
            if self._client is not None and file.exists():
                self._guard(lambda file=file: self._client.log_artifact(self._run_id, str(file)))  # type: ignore[misc]

    def end(self, status: str) -> None:
        """FINISHED or FAILED."""
        if self._client is not None:
            self._guard(lambda: self._client.set_terminated(self._run_id, status))


@contextmanager
def tracked(root: Path, name: str, tags: dict[str, str], parameters: dict[str, Any]) -> Iterator[Tracker]:
    """A tracker that ends as FINISHED, or as FAILED when the block raises."""
    tracker = Tracker(root, name, tags, parameters)
    try:
        yield tracker
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end("FINISHED")
