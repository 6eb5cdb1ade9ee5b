"""What every stage of every run shares: data hash, history, MLflow, run.json, and clearing up after success."""

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from compressbench.files import write_json, write_text
from compressbench.plan import Job, provenance
from compressbench.tracking import Tracker, tracked
from compressbench.tracking.results import THROUGHPUT, THROUGHPUT_FILE


@dataclass
class History:
    """Writes history.csv after every epoch, logs to MLflow, and moves the progress bar.

    Images per second, which are others every time, stand in a file of their own, by the row of history.csv.
    """

    file: Path
    tracker: Tracker
    rows: list[dict[str, float]] = field(default_factory=list)
    speeds: dict[int, float] = field(default_factory=dict)
    bar: tqdm | None = None

    def throughput(self, images_per_second: float) -> None:
        """Of the epoch whose metrics come next."""
        self.speeds[len(self.rows)] = images_per_second
        rows = [{"row": row, THROUGHPUT: speed} for row, speed in self.speeds.items()]
        _write_table(self.file.with_name(THROUGHPUT_FILE), rows)

    def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
        step = len(self.rows)
        self.rows.append({"epoch": number} | metrics)
        _write_table(self.file, self.rows)
        if step in self.speeds:
            metrics = metrics | {THROUGHPUT: self.speeds[step]}
        self.tracker.metrics(metrics, step=step)
        if self.bar is None or self.bar.total != epochs or number == 0:
            self.bar = tqdm(total=epochs, unit="epoch", mininterval=1)
        self.bar.update(number + 1 - self.bar.n)
        self.bar.set_postfix({key: f"{value:.4g}" for key, value in metrics.items()})


def _write_table(file: Path, rows: list[dict[str, float]]) -> None:
    """CSV with a column for everything that a row has."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


@dataclass
class Stage:
    """A running stage: where its files go and who listens."""

    folder: Path
    history: History | None
    """None in a process that only helps another one to train."""


@contextmanager
def running(root: Path, job: Job, threads: int) -> Iterator[Stage]:
    """Everything around a stage's own work. run.json is written last: a folder that has it is complete."""
    started, began = time.perf_counter(), datetime.now(UTC)
    folder = root / job.folder
    for name in (provenance.FILE, THROUGHPUT_FILE):
        (folder / name).unlink(missing_ok=True)
    with tracked(root, job.tags, job.parameters) as tracker:
        history = History(folder / "history.csv", tracker)
        yield Stage(folder, history)
        if not history.rows:
            write_text(history.file, "epoch\n")
        seconds = time.perf_counter() - started
        times = {"started": began.isoformat(), "ended": datetime.now(UTC).isoformat()}
        content = provenance.record(root, job, threads=threads, seconds=seconds)
        write_json(folder / provenance.FILE, content | times)
        tracker.complete(folder)
