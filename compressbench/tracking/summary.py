"""The numbers of a run as the report has them: quality, size, arithmetic, speed-up, and the paper's own value."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from compressbench.config import discovery
from compressbench.plan import Run
from compressbench.tracking.results import finite

if TYPE_CHECKING:
    import pandas as pd

COSTS = ("quality", "ssim", "params", "macs", "bit_operations", "stored_bytes")
DIGITS = 4  # MLflow's tables print a number as it is


class Summary:
    """Of one scale. What belongs to a setting and not to a seed (speed-up, latency) is that of the report: over timed seeds."""

    def __init__(self, root: Path, scale: str, runs: Iterable[Run]):
        from compressbench.reporting.collect import AT, collect
        from compressbench.reporting.groups import group_runs
        from compressbench.reporting.published import read_published
        from compressbench.reporting.summary import summarize

        self.root, self._at = root, AT
        self.declarations = discovery.discover(root)
        known = sorted({run for run in runs if self._is_known(run)})
        self._rows = collect(root / "results", scale, known, {run: self._timed(run, known) for run in known})
        published = read_published(root / "methods", self.declarations)
        self._settings: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        for group in group_runs(known, self.declarations, self._rows.points):
            for row in _records(summarize(self._rows, group, published)):
                self._settings[group.dataset, group.model, row["method"], row["setting"]] = row
        self._runs: dict[Run, dict[str, dict[str, Any]]] = {}
        for row in _records(self._rows.runs):
            setting, _, point = row["setting"].partition(AT)
            run = Run(scale, row["dataset"], row["model"], row["method"], setting, row["seed"])
            self._runs.setdefault(run, {})[point] = row

    def _is_known(self, run: Run) -> bool:
        return run.method in self.declarations and run.setting in self.declarations[run.method].settings

    def _timed(self, run: Run, known: list[Run]) -> Run:
        source = replace(run, setting=self.declarations[run.method].latency_from.get(run.setting, run.setting))
        return source if source in known else run

    def metrics(self, run: Run) -> dict[str, float]:
        """The run's numbers: those of every operating point as `point.name`, and those of the most expensive one as `name`."""
        points = {point: self._point(run, point, row) for point, row in self._runs.get(run, {}).items()}
        if not points:
            return {}
        main = max(points, key=lambda point: points[point].get("macs", 0.0))
        named = {f"{point}.{key}": value for point, own in points.items() if point for key, value in own.items()}
        seconds = finite({"training_seconds": self._runs[run][main]["seconds"]})
        return points[main] | named | {key: round(value, 1) for key, value in seconds.items()}

    def _point(self, run: Run, point: str, row: dict[str, Any]) -> dict[str, float]:
        setting = self._setting(run, point)
        timed = {"speedup": setting.get("best_speedup"), "latency_ms": setting.get("fastest_ms")}
        return {key: round(value, DIGITS) for key, value in finite({key: row[key] for key in COSTS} | timed).items()}

    def _setting(self, run: Run, point: str = "") -> dict[str, Any]:
        name = f"{run.setting}{self._at}{point}" if point else run.setting
        return self._settings.get((run.dataset, run.model, run.method, name), {})

    def published(self, run: Run) -> str:
        """The paper's nearest result in words; nothing where it has none."""
        points = self._runs.get(run, {"": {}})
        said = [self._setting(run, point).get("published", "–") for point in points]
        return next((text for text in reversed(said) if text != "–"), "")

    def readme(self, run: Run) -> Path | None:
        """The README of the run's method."""
        if run.method not in self.declarations:
            return None
        file = self.root / Path(*self.declarations[run.method].package.split(".")) / "README.md"
        return file if file.exists() else None

    def paper(self, run: Run) -> str:
        """The method's paper."""
        return self.declarations[run.method].paper if run.method in self.declarations else ""


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", frame.to_dict("records"))
