"""A stage that trains, as a run of MLflow while it trains; its curves are also those of the run that it is a part of."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from compressbench.errors import UserError
from compressbench.plan import provenance
from compressbench.tracking import results, store, writing
from compressbench.tracking.gate import is_off

log = logging.getLogger(__name__)
PROCESS = "process"  # tag: host, process, and when that process started, of a run that is written live
PARENT = "mlflow.parentRunId"
UNFINISHED = "+"  # in the tag CURVES: a stage has begun to draw, and has not ended


class Tracker:
    """The MLflow run of a stage, created when the first metrics arrive. The first failure is logged and switches it off.

    Args:
        tags: scale, dataset, model, method, setting, seed, stage.
        parameters: the configuration; nested keys are joined by dots.
    """

    def __init__(self, root: Path, tags: dict[str, str], parameters: dict[str, Any]):
        self.root, self.tags, self.parameters = root, tags, parameters
        self._client: Any = None
        self._run: Any = None
        self._parent: Any = None  # None for a pretraining, which is a run itself
        self._first_step = 0
        self._failed = is_off()

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log finite numbers at a step (epoch)."""
        if self._run is None:
            self._guard(self._start)
        self._guard(lambda: self._log(results.finite(values), step))

    def complete(self, folder: Path) -> None:
        """Log what `folder` holds beyond the history, mark the run as its result, and end it. Nothing if never started."""
        if self._run is not None:
            self._guard(lambda: self._complete(results.Result(self.root, folder)))

    def fail(self) -> None:
        """End the run as FAILED, if it was started."""
        for run in (self._run, self._parent):
            if run is not None:
                self._guard(partial(self._client.set_terminated, run.info.run_id, "FAILED"))

    def _guard(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            with store.guarded(self.root):
                action()
        except UserError as error:
            self._failed = True
            log.warning("MLflow tracking is off for the rest of this stage (results are not affected): %s", error)

    def _start(self) -> None:
        client = self._client = store.connect(self.root, create=False)
        experiment = store.experiment_of(self.root, client, self.tags["scale"])
        alive = {PROCESS: this_process()} | results.source_tags(self.tags["stage"], provenance.code_version(self.root))
        if results.is_pretraining(self.tags):
            tags = results.run_tags(self.root, self.tags) | {"stage": "pretrain"}
            self._run = client.create_run(
                experiment, tags=tags | alive, run_name=results.run_name(self.root, self.tags)
            )
        else:
            self._parent = self._join(experiment, alive)
            tags = results.stage_tags(self.tags) | {PARENT: self._parent.info.run_id} | alive
            self._run = client.create_run(experiment, tags=tags, run_name=results.stage_name(self.root, self.tags))
        writing.log(client, self._run.info.run_id, params=results.flat(self.parameters))

    def _join(self, experiment: str, alive: dict[str, str]) -> Any:
        """The run that this stage is a part of: the one that shows the curves of the stages before, else a new one."""
        before = previous(self.root, self.tags)
        self._first_step = sum(len(result.history) for result in before)
        drawn = results.curves(before)
        begun = {results.CURVES: f"{drawn} {UNFINISHED}{self.tags['stage']}"}
        name = results.as_run(self.tags).name
        wanted = f'tags.{results.KIND} = "{results.RUN}" and tags.{results.RUN} = "{name}"'
        for run in self._client.search_runs([experiment], wanted, max_results=10):
            if run.data.tags.get(results.CURVES) == drawn:
                writing.log(self._client, run.info.run_id, tags=begun | alive)
                self._client.update_run(run.info.run_id, status="RUNNING")
                return run
        tags = results.run_tags(self.root, self.tags) | begun | alive
        return self._client.create_run(experiment, tags=tags, run_name=results.run_name(self.root, self.tags))

    def _log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        writing.log(self._client, self._run.info.run_id, writing.points([values], step, now))
        if self._parent is not None and self.tags["stage"] in results.TRAINING:
            drawn = writing.points([values], self._first_step + step, now)
            writing.log(self._client, self._parent.info.run_id, drawn)

    def _complete(self, result: results.Result) -> None:
        client, run_id = self._client, self._run.info.run_id
        writing.add_files(client, self._run, result.files)
        writing.add_dataset(client, run_id, result)
        numbers = writing.points([results.finite(results.final_metrics(result.folder))], 0, result.ended)
        writing.log(client, run_id, numbers, tags={results.RESULT: result.identity})
        client.set_terminated(run_id, "FINISHED", result.ended)
        if self._parent is not None:
            drawn = [result] if self.tags["stage"] in results.TRAINING else []
            tags = {results.CURVES: results.curves([*previous(self.root, self.tags), *drawn])}
            writing.log(client, self._parent.info.run_id, tags=tags)
            client.update_run(self._parent.info.run_id, status="SCHEDULED")


@contextmanager
def tracked(root: Path, tags: dict[str, str], parameters: dict[str, Any]) -> Iterator[Tracker]:
    """A tracker whose run ends as FAILED when the block raises; the block calls `complete`."""
    tracker = Tracker(root, tags, parameters)
    try:
        yield tracker
    except BaseException:
        tracker.fail()
        raise


def previous(root: Path, tags: dict[str, str]) -> list[results.Result]:
    """The finished stages of the same run whose curves come before those of this stage."""
    run, stages = results.as_run(tags), results.TRAINING
    before = stages[: stages.index(tags["stage"])] if tags["stage"] in stages else ()
    found = [results.Result(root, root / run.folder(stage)) for stage in before]
    return [result for result in found if (result.folder / "run.json").exists()]


def this_process() -> str:
    """Host, number and start time of this process, by which `is_alive` recognises it."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def is_alive(process: str) -> bool:
    """Whether the process of a tag PROCESS is running; a process on another machine counts as running."""
    host, number, started = process.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's, and it is there
        pass
    return _started(int(number)) == started


def _started(process: int) -> str:
    """When a process started, in ticks since boot; nothing where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
