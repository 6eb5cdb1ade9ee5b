"""Shared by every stage: history, MLflow, and run.json."""

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


@dataclass
class History:
    """Writes history.csv after every epoch, logs to MLflow, and moves the progress bar."""

    file: Path
    tracker: Tracker
    rows: list[dict[str, float]] = field(default_factory=list)
    bar: tqdm | None = None

    def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
        self.rows.append({"epoch": number} | metrics)
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.file, text.getvalue())
        self.tracker.metrics(metrics, step=len(self.rows) - 1)
        if self.bar is None or self.bar.total != epochs or number == 0:
            self.bar = tqdm(total=epochs, unit="epoch", mininterval=1)
        self.bar.update(number + 1 - self.bar.n)
        self.bar.set_postfix({key: f"{value:.4g}" for key, value in metrics.items()})


@dataclass
class Stage:
    """A running stage: where its files go and who listens."""

    folder: Path
    history: History


@contextmanager
def running(root: Path, job: Job, threads: int) -> Iterator[Stage]:
    """Everything around a stage's own work. run.json is written last: a folder that has it is complete."""
    started, began = time.perf_counter(), datetime.now(UTC)
    folder = root / job.folder
    (folder / provenance.FILE).unlink(missing_ok=True)
    with tracked(root, job.tags, job.parameters) as tracker:
        stage = Stage(folder, History(folder / "history.csv", tracker))
        yield stage
        if not stage.history.rows:
            write_text(stage.history.file, "epoch\n")
        seconds = time.perf_counter() - started
        times = {"started": began.isoformat(), "ended": datetime.now(UTC).isoformat()}
        content = provenance.record(root, job, threads=threads, seconds=seconds)
        write_json(folder / provenance.FILE, content | times)
        tracker.complete(folder)
