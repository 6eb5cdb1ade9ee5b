"""The tables of a report's folder -> one table of all results."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from compressbench.errors import UserError
from compressbench.reporting.collect import AT
from compressbench.reporting.frames import each
from compressbench.reporting.groups import FAMILIES, TASKS
from compressbench.reporting.headline import DEPLOYMENT_TABLES
from compressbench.reporting.text import DASH

if TYPE_CHECKING:
    from compressbench.config import Declaration

ONE_THREAD = 1
TASK_WORDS = {
    "classification": "Classification",
    "class_incremental": "Class-incremental learning",
    "super_resolution": "Super-resolution",
    "fidelity": "Agreement with the float network",
}
MEASURES = {"points": "%", "dB": "dB", "points of agreement": "% agreement"}  # unit of a difference -> of a quality
NUMBERS = [
    "quality", "quality_low", "quality_high", "n", "change", "change_low", "change_high", "seconds", "params", "macs",
    "bit_operations", "stored_bytes", "density", "fastest_ms", "best_speedup", "best_low", "best_high",
]  # fmt: skip
WORDS = [
    "method",
    "setting",
    "title",
    "label",
    "series",
    "level",
    "baseline",
    "reference",
    "against",
    "fastest_runtime",
]
ADDED = [
    "dataset",
    "model",
    "task",
    "kind",
    "measure",
    "header",
    "published",
    "paper_ms",
    "paper_network",
    "level_words",
]


def read_results(tables: Path, declarations: Mapping[str, "Declaration"]) -> pd.DataFrame:
    """A row per (data set, network, method, setting): WORDS and NUMBERS as the comparison tables have them, and ADDED.

    Raises:
        UserError: the folder has no tables of a report.
    """
    if not (tables / "overview.csv").exists():
        raise UserError(f"{tables} has no overview.csv; write the report first: compressbench report.")
    overview = read_table(tables / "overview.csv")
    frames = []
    for dataset, model, unit in overview.reindex(columns=["dataset", "model", "unit"]).drop_duplicates().to_numpy():
        table = read_table(tables / f"comparison_{dataset}_{model}.csv")
        task = task_of(table.method, unit, declarations)
        words = {"task": TASK_WORDS[task], "measure": MEASURES[unit], "header": TASKS[task].header}
        frames.append(table.assign(dataset=dataset, model=model, **words))
    if not frames:
        return pd.DataFrame(columns=[*WORDS, *NUMBERS, *ADDED])
    results = pd.concat(frames, ignore_index=True)
    families = {name: FAMILIES[declared.family] for name, declared in declarations.items()}
    results = results.assign(
        kind=results.method.map(families).fillna(DASH),
        level_words=[_level(row, declarations) for row in each(results)],
        **_paper_times(results, read_deployments(tables)),
    )
    return results.reindex(columns=[*WORDS, *NUMBERS, *ADDED]).fillna(dict.fromkeys([*WORDS, "published"], ""))


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file of the report; no rows where there is no file, or nothing in it."""
    try:
        return pd.read_csv(path, keep_default_na=True, float_precision="round_trip")
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()


def read_deployments(tables: Path) -> pd.DataFrame:
    """Times at the papers' own sizes: of all settings where they were timed, else of one per method; else no rows."""
    return next(
        (t for name in reversed(DEPLOYMENT_TABLES) if len(t := read_table(tables / f"{name}.csv"))), pd.DataFrame()
    )


def task_of(methods: "pd.Series[str]", unit: str, declarations: Mapping[str, "Declaration"]) -> str:
    """The task that all methods of a table declare and that has this unit."""
    alike = [task for task, wording in TASKS.items() if wording.unit == unit]
    known = [set(declarations[m].task) for m in methods.unique() if m in declarations]
    common = [task for task in alike if all(task in tasks for tasks in known)]
    return (common or alike)[0]


def _level(row: Any, declarations: Mapping[str, "Declaration"]) -> str:
    """The level in words that stand alone; its name where it is an operating point."""
    declared = declarations.get(row.method)
    if AT in row.setting or declared is None or row.setting not in declared.settings:
        return str(row.level) if isinstance(row.level, str) else ""
    return declared.level_of(row.setting).alone


def _paper_times(results: pd.DataFrame, deployments: pd.DataFrame) -> dict[str, list[Any]]:
    """Of every result the time of the same setting on the first network of its paper, where one was measured."""
    times: dict[tuple[str, str], tuple[float, str]] = {}
    if len(deployments):
        for row in each(deployments[deployments.threads == ONE_THREAD]):
            for method in str(row.methods).split("+"):
                times.setdefault((method, row.setting), (row.ms, row.network))
    found = [times.get((row.method, row.label), (None, "")) for row in each(results)]
    return {"paper_ms": [ms for ms, _ in found], "paper_network": [network for _, network in found]}
