"""Result files -> data frames. Nothing is computed here except flattening."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from compressbench.reporting.readers import POINT, READERS, Reader, Row
from compressbench.reporting.run_files import RunFiles, read_history, stage_folder

if TYPE_CHECKING:
    from compressbench.plan import Run

KEYS = ["dataset", "model", "method", "setting", "seed"]
AT = "@"  # setting@point


@dataclass(frozen=True)
class Results:
    """What one scale has measured so far.

    The frames: KEYS and the columns of the reader of that name in `readers`, in the order of the plan. A model with several
    operating points has its rows for each of them, at `setting@point`.

    expected: the runs of the plan.
    points: (dataset, model, method, setting) -> the operating points of its models, name -> label; others are not in it.
    """

    scale: str
    root: Path
    runs: pd.DataFrame
    fidelity: pd.DataFrame
    images: pd.DataFrame
    sessions: pd.DataFrame
    records: pd.DataFrame
    numbers: pd.DataFrame
    latency: pd.DataFrame
    throughput: pd.DataFrame
    skipped: pd.DataFrame
    history: pd.DataFrame
    missing: pd.DataFrame
    expected: Sequence["Run"]
    points: Mapping[tuple[str, str, str, str], Mapping[str, str]]

    def folder(self, run: "Run", stage: str) -> Path:
        """The folder of a stage under the results root."""
        return stage_folder(self.root, run, stage)

    def pretraining(self, run: "Run") -> pd.DataFrame | None:
        """The history of the dense model of a run's pair and seed, as in `history` but without keys."""
        return read_history(self.folder(run, "pretrain") / "history.csv")


def collect(
    results_root: Path, scale: str, expected: Sequence["Run"], timed: Mapping["Run", "Run"] | None = None
) -> Results:
    """Read the results of the expected runs of `scale`.

    Args:
        results_root: the folder that holds `{scale}/{dataset}/...`.
        expected: the runs of the plan; what they lack is listed in `missing`.
        timed: run -> the run whose latency is used for it; default: every run has its own.
    """
    rows: dict[str, list[Row]] = {name: [] for name in READERS}
    points: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for run in expected:
        files = RunFiles(results_root, run, run if timed is None else timed.get(run))
        for name, reader in READERS.items():
            rows[name] += [_keyed(row, run) for row in reader.rows(files)]
        if labels := files.labels:
            points.setdefault((run.dataset, run.model, run.method, run.setting), {}).update(labels)
    frames = {name: _frame(reader, rows[name]) for name, reader in READERS.items()}
    return Results(scale=scale, root=results_root, expected=tuple(expected), points=points, **frames)


def _keyed(row: Row, run: "Run") -> Row:
    """A row with KEYS: those of the run, or of one of its operating points."""
    keys = {name: getattr(run, name) for name in KEYS}
    if POINT in row:
        keys["setting"] += f"{AT}{row[POINT]}"
    return row | keys


def _frame(reader: Reader, rows: list[Row]) -> pd.DataFrame:
    """The rows with their declared columns."""
    frame = pd.DataFrame(rows, columns=None if reader.others and rows else [*KEYS, *reader.columns])
    return frame.astype(dict.fromkeys(reader.floats, float))
