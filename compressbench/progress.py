"""One line about a workflow that runs, instead of Snakemake's pages: what is done, what runs, and the time that is left.

Everything that Snakemake has to say goes into its log file. A terminal's line is drawn anew every second; where there is no
terminal, a line is written every half minute. Jobs that fail are named with their log file at once.
"""

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

NAME = "compressbench"
EVERY, EVERY_WITHOUT_TERMINAL = 1.0, 30.0  # seconds
TARGETS = ("all", "first")  # rules that run nothing
ANNOUNCED = "first_page"  # the rule whose output one may look at while the others run
WIDTH = 24
CLEAR = "\r\x1b[K"


class Estimate:
    """The time that is left, from the jobs that have finished.

    A job costs its seconds times its threads; one of a rule that has not run yet, as much as the others on average. What is
    left is done at the pace so far: finished costs over the time that they took.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = clock()
        self.jobs: Counter[str] = Counter()
        self.running: dict[int, tuple[str, int, float]] = {}
        self.costs: dict[str, list[float]] = {}

    @property
    def done(self) -> int:
        return sum(map(len, self.costs.values()))

    @property
    def total(self) -> int:
        return self.jobs.total()

    def start(self, job: int, rule: str, threads: int) -> None:
        self.running[job] = rule, threads, self.clock()

    def finish(self, job: int) -> None:
        """A job that has ended; of one that was never started, nothing is known."""
        if found := self.running.pop(job, None):
            rule, threads, since = found
            self.costs.setdefault(rule, []).append((self.clock() - since) * threads)

    def fail(self, job: int) -> None:
        self.running.pop(job, None)

    def seconds_left(self) -> float | None:
        """None as long as nothing has finished."""
        spent = sum(map(sum, self.costs.values()))
        if not spent:
            return None
        mean = spent / self.done
        rest = 0.0
        for rule, count in self.jobs.items():
            own = self.costs.get(rule, [])
            rest += (count - len(own)) * (sum(own) / len(own) if own else mean)
        now = self.clock()
        under_way = sum((now - since) * threads for _, threads, since in self.running.values())
        return max(0.0, rest - under_way) * (now - self.started) / (spent + under_way)


def words(estimate: Estimate, failed: int) -> str:
    """`12 done, 2 running, 186 left, about 41 min`."""
    running = len(estimate.running)
    left = max(0, estimate.total - estimate.done - running - failed)
    parts = [f"{estimate.done} done", f"{running} running", f"{left} left", *([f"{failed} failed"] if failed else [])]
    seconds = estimate.seconds_left()
    parts.append("time left: not known yet" if seconds is None else f"about {duration(seconds)}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """In whole minutes; below one, in tens of seconds."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Line(LogHandlerBase):
    """Snakemake's log handler: the line, warnings and errors; nothing else."""

    writes_to_stream = True  # type: ignore[assignment]  # Snakemake's own pages stay away
    writes_to_file = False  # type: ignore[assignment]
    has_filter = True  # type: ignore[assignment]
    has_formatter = True  # type: ignore[assignment]
    needs_rulegraph = False  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.stream: TextIO = sys.stderr
        self.terminal = self.stream.isatty()
        self.estimate = Estimate()
        self.about: dict[int, Any] = {}
        self.failed: set[int] = set()
        self.ended = threading.Event()
        threading.Thread(target=self._tick, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            stats = record.stats  # type: ignore[attr-defined]
            self.estimate.jobs = Counter({r: n for r, n in stats.items() if r not in (*TARGETS, "total")})
        elif event == LogEvent.JOB_INFO:
            self._start(record)
        elif event == LogEvent.JOB_FINISHED:
            self._finish(record.job_id)  # type: ignore[attr-defined]
        elif event == LogEvent.JOB_ERROR:
            self._fail(record)
        elif record.getMessage().startswith("Complete log") or (
            record.levelno >= logging.WARNING and not self._is_known(record)
        ):
            self.say(record.getMessage())

    def _is_known(self, record: Any) -> bool:
        """Whether it only repeats that jobs have failed."""
        of_job = getattr(record, "exception", "") == "RuleException" and "CalledProcessError" in record.getMessage()
        return of_job or (bool(self.failed) and "job" in record.getMessage())

    def _start(self, record: Any) -> None:
        if record.rule_name not in TARGETS:
            self.about[record.jobid] = record
            self.estimate.start(record.jobid, record.rule_name, record.threads)

    def _finish(self, job: int) -> None:
        self.estimate.finish(job)
        about = self.about.pop(job, None)
        if about is not None and about.rule_name == ANNOUNCED:
            self.say(f"A first page to look at: {about.output[0]}")

    def _fail(self, record: Any) -> None:
        self.failed.add(record.jobid)
        self.estimate.fail(record.jobid)
        logs = [Path(log) for log in record.log]
        self.say(
            f"failed: {record.rule_name}, {', '.join(map(str, logs)) or 'without a log'}{''.join(map(_end, logs))}"
        )

    def say(self, text: str) -> None:
        """A sentence above the line."""
        self._write(f"{CLEAR if self.terminal else ''}{text}\n")
        if self.terminal and self.estimate.total:
            self._draw()

    def _tick(self) -> None:
        while not self.ended.wait(EVERY if self.terminal else EVERY_WITHOUT_TERMINAL):
            self.acquire()
            if self.estimate.total:
                self._draw()
            self.release()

    def _draw(self) -> None:
        share = self.estimate.done / self.estimate.total if self.estimate.total else 0
        bar = "█" * round(WIDTH * share)
        text = words(self.estimate, len(self.failed))
        self._write(f"{CLEAR}{bar:░<{WIDTH}} {text}" if self.terminal else f"{text}\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def close(self) -> None:
        if not self.ended.is_set() and self.estimate.total:
            failed = f", {len(self.failed)} failed" if self.failed else ""
            took = duration(self.estimate.clock() - self.estimate.started)
            self._write(
                f"{CLEAR if self.terminal else ''}{self.estimate.done} of {self.estimate.total} jobs done{failed}, in {took}\n"
            )
        self.ended.set()
        super().close()


def _end(log: Path) -> str:
    """The last line of a job's log, where it says what went wrong."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"\n  {last}" if last else ""


def snakemake(arguments: Sequence[str]) -> None:
    """Run Snakemake in this process with `Line` in place of its pages, and exit as it does."""
    from snakemake.cli import main
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    registry = LoggerPluginRegistry()
    registry.register_plugin(f"{registry.module_prefix}{NAME}", SimpleNamespace(LogHandler=Line))  # type: ignore[arg-type]
    logging.getLogger("snakemake.logging").propagate = False  # the command line has a handler of its own
    main([*arguments, "--logger", NAME])
