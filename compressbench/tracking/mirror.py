"""Brings the store up to date with the files under results/."""

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from compressbench.errors import UserError
from compressbench.plan import Run
from compressbench.tracking import results, store, writing
from compressbench.tracking.live import PARENT, PROCESS, is_alive
from compressbench.tracking.results import CURVES, KIND, RESULT, RUN, STAGE, TRAINING, Result
from compressbench.tracking.summary import Summary

log = logging.getLogger(__name__)
NOTE = "mlflow.note.content"
ENDED = ("FINISHED", "FAILED", "KILLED")


class Count(NamedTuple):
    """Results that the store has, and how many of them it has since this call."""

    new: int
    present: int
    finished: int


def prepare(root: Path, scale: str) -> None:
    """Create the store and the experiment of a scale. UserError when the store cannot be used."""
    with store.guarded(root):
        store.experiment_of(root, store.connect(root), scale)


def synchronise(root: Path) -> Count:
    """Log every finished result under results/ that the store does not have yet, and end what no process writes any more.

    Returns:
        What the store has afterwards, counted there.

    Raises:
        UserError: when the store cannot be used, or is lost on the way.
    """
    store.write_quickly()
    client = store.connect(root)
    scales = defaultdict(list)
    for result in results.find(root):
        try:
            scales[result.tags["scale"]].append(result)
        except (UserError, KeyError) as error:
            log.warning("not logged: %s", error)
    counts = [_synchronise(root, client, scale, found) for scale, found in scales.items()]
    return Count(*map(sum, zip(*counts, strict=True))) if counts else Count(0, 0, 0)


def _synchronise(root: Path, client: Any, scale: str, found: list[Result]) -> Count:
    with store.guarded(root):
        experiment = store.experiment_of(root, client, scale)
        known = _runs(client, experiment)
    stages, logged = defaultdict(list), defaultdict(list)
    for result in found:
        stages[results.as_run(result.tags).name].append(result)
    for run in known:
        logged[run.data.tags.get(RUN, "")].append(run)
    summary = Summary(root, scale, [results.as_run(result.tags) for result in found])
    for name in tqdm(stages, f"MLflow, {scale}", unit="run", mininterval=1, delay=2):
        try:
            with store.guarded(root):
                RunWriter(root, client, experiment, summary, stages[name], logged.pop(name, [])).write()
        except UserError as error:
            store.answers(root)  # a store that is lost ends this here
            log.warning("not logged: %s: %s", name, error)
    with store.guarded(root):
        for run in (run for left in logged.values() for run in left):
            _end_if_dead(client, run)
        wanted, before = {result.identity for result in found}, _present(known)
        after = _present(_runs(client, experiment))
    return Count(len(wanted & (after - before)), len(wanted & after), len(found))


def _runs(client: Any, experiment: str) -> list[Any]:
    """All runs of an experiment that are not deleted, newest first."""
    found, token = [], None
    while token is None or token:
        page = client.search_runs([experiment], max_results=1000, page_token=token or None)
        found += page
        token = page.token or ""
    return found


def _present(runs: list[Any]) -> set[str]:
    """The identities of the results that are in the store, whole."""
    return {run.data.tags[RESULT] for run in runs if _is_whole(run)}


def _is_whole(run: Any) -> bool:
    """Whether a run of the store holds everything of a result: the status comes last."""
    return run.info.status == "FINISHED" and RESULT in run.data.tags


def _is_written(run: Any) -> bool:
    """Whether a process still writes the run."""
    return run.info.status == "RUNNING" and PROCESS in run.data.tags and is_alive(run.data.tags[PROCESS])


def _end_if_dead(client: Any, run: Any) -> None:
    if run.info.status == "RUNNING" and not _is_written(run):
        client.set_terminated(run.info.run_id, "KILLED")


@dataclass
class RunWriter:
    """One run, and what the store has of it.

    Attributes:
        stages: the finished ones.
        logged: runs of the store, earlier and unfinished attempts among them.
    """

    root: Path
    client: Any
    experiment: str
    summary: Summary
    stages: list[Result]
    logged: list[Any]

    def write(self) -> None:
        """Log what is missing, correct what differs, delete what newer results have replaced. Not while a stage runs."""
        if any(_is_written(run) for run in self.logged):
            return
        self.stages.sort(key=lambda result: result.started)
        tags = self.stages[0].tags
        kept = [self._pretraining()] if results.is_pretraining(tags) else self._with_stages()
        finished = {result.tags["stage"] for result in self.stages}
        for run in self.logged:
            if run.info.run_id in kept:
                continue
            if run.data.tags.get(KIND) == RUN or run.data.tags.get("stage") in finished:
                self.client.delete_run(run.info.run_id)
            else:  # a try that failed stays beside the others until there is a result
                _end_if_dead(self.client, run)
                self._move(run, kept[0])

    def _pretraining(self) -> str:
        (result,) = self.stages
        for run in self.logged:
            if _is_whole(run) and run.data.tags[RESULT] == result.identity:
                return str(run.info.run_id)
        tags = results.run_tags(self.root, result.tags) | {"stage": "pretrain", RESULT: result.identity}
        note = {NOTE: f"The dense {result.tags['model']} that methods on {result.tags['dataset']} start from."}
        return self._log(result, results.run_name(self.root, result.tags), tags | note)

    def _with_stages(self) -> list[str]:
        whole = {
            run.data.tags[RESULT]: run for run in self.logged if run.data.tags.get(KIND) == STAGE and _is_whole(run)
        }
        parent = self._parent()
        kept = [parent.info.run_id]
        for result in self.stages:
            if result.identity in whole:
                self._move(whole[result.identity], kept[0])
                kept.append(whole[result.identity].info.run_id)
            else:
                tags = results.stage_tags(result.tags) | {RESULT: result.identity, PARENT: kept[0]}
                kept.append(self._log(result, results.stage_name(self.root, result.tags), tags))
        self._end(parent)
        return kept

    def _move(self, run: Any, parent: str) -> None:
        if run.data.tags.get(PARENT) != parent:
            self.client.set_tag(run.info.run_id, PARENT, parent)

    def _log(self, result: Result, name: str, tags: dict[str, str]) -> str:
        """A stage from its files; FINISHED comes last."""
        tags = tags | results.source_tags(result.tags["stage"], str(result.content.get("code_version", "")))
        run = self.client.create_run(self.experiment, start_time=result.started, tags=tags, run_name=name)
        metrics = writing.points(map(results.finite, result.history), 0, result.ended)
        metrics += writing.points([results.finite(results.final_metrics(result.folder))], 0, result.ended)
        writing.log(self.client, run.info.run_id, metrics, results.flat(result.content["configuration"]))
        writing.add_dataset(self.client, run.info.run_id, result)
        writing.add_files(self.client, run, result.files)
        self.client.set_terminated(run.info.run_id, "FINISHED", result.ended)
        return str(run.info.run_id)

    @property
    def _trained(self) -> list[Result]:
        return [result for result in self.stages if result.tags["stage"] in TRAINING]

    def _parent(self) -> Any:
        """The run that shows the curves of its stages as they are: one that the store has, else a new one."""
        drawn, parameters = results.curves(self._trained), self._parameters()
        for run in self.logged:
            same = run.data.tags.get(CURVES) == drawn and run.data.params.items() <= parameters.items()
            if same and run.data.tags.get(KIND) == RUN:
                return run
        tags = self.stages[0].tags
        run = self.client.create_run(
            self.experiment, start_time=self.stages[0].started,
            tags=results.run_tags(self.root, tags) | {CURVES: drawn}, run_name=results.run_name(self.root, tags),
        )  # fmt: skip
        step = 0
        for result in self._trained:
            rows = [results.finite(row) for row in result.history]
            writing.log(self.client, run.info.run_id, writing.points(rows, step, result.ended))
            step += len(rows)
        return run

    def _parameters(self) -> dict[str, str]:
        """The method's hyper-parameters; those of the pair are with the stages."""
        configuration = self._trained[-1].content["configuration"] if self._trained else {}
        return results.flat({key: value for key, value in configuration.items() if key != "pair"})

    def _end(self, parent: Any) -> None:
        """Give the run the numbers of its results, as far as it does not have them, and its status."""
        run_id, stages = parent.info.run_id, {result.tags["stage"]: result for result in self.stages}
        last = self.stages[-1]
        run, ended = results.as_run(last.tags), max(result.ended for result in self.stages)
        metrics = {k: v for k, v in self.summary.metrics(run).items() if parent.data.metrics.get(k) != v}
        parameters = {k: v for k, v in self._parameters().items() if k not in parent.data.params}
        tags = results.run_tags(self.root, last.tags) | self._about(run_id, run)
        tags |= results.source_tags("", str(last.content.get("code_version", "")))
        tags = {k: v for k, v in tags.items() if parent.data.tags.get(k) != v}
        writing.log(self.client, run_id, writing.points([metrics], 0, ended), parameters, tags)
        if not (parent.inputs and parent.inputs.dataset_inputs):
            writing.add_dataset(self.client, run_id, (self._trained or self.stages)[0])
        if readme := self.summary.readme(run):
            writing.add_files(self.client, parent, [readme])
        failed = any(
            r.info.status in ("FAILED", "KILLED") and r.data.tags.get("stage") not in stages for r in self._tries
        )
        status = "FINISHED" if "evaluate" in stages else "FAILED" if failed else "SCHEDULED"
        if (parent.info.status, parent.info.end_time) != (status, ended):
            self.client.set_terminated(run_id, status, ended)

    @property
    def _tries(self) -> list[Any]:
        return [run for run in self.logged if run.data.tags.get(KIND) == STAGE]

    def _about(self, run_id: str, run: Run) -> dict[str, str]:
        """The published value, and the description with a link to the method's README."""
        said, lines = self.summary.published(run), [f"Paper: {self.summary.paper(run)}"]
        if said:
            lines.append(f"Published: {said}")
        if self.summary.readme(run):
            page = f"#/experiments/{self.experiment}/runs/{run_id}/artifacts/README.md"
            lines.append(f"[The method, and what was found]({page})")
        return {NOTE: "\n\n".join(lines)} | ({"published": said} if said else {})
