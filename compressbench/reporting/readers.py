"""Readers: what the result files of one run contribute to each frame of `Results`; each reader declares its columns.

A reader yields rows without the run's keys, which the collector adds; a row of an operating point has its name as POINT.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressbench.reporting.run_files import TRAINING_STAGES, Content, RunFiles, read_history

COSTS = ["params", "weights", "kept_weights", "macs", "dense_macs", "bit_operations", "stored_bytes"]
NUMBERS = ["quality", "ssim", "seconds", *COSTS]
SCORES = ["accuracy", "new", "old", "forgetting"]
SESSION = ["draw", "session", "classes", *SCORES]
FIDELITY = ["agreement", "kl_divergence", "logits_snr", "top1", "stored_bytes"]
TIMES = ["dense_ms", "latency_ms", "speedup", "low", "high"]
RUNTIME = ["runtime", "threads", "arithmetic", "library", "isa", "layers", "rounds"]
POINT = "operating point"

Row = dict[str, Any]
Rows = Callable[[RunFiles], Iterator[Row]]


@dataclass(frozen=True)
class Reader:
    """A function from the files of one run to rows, with their columns.

    floats: the columns that are floating-point numbers whatever the rows hold.
    others: whether columns that are not declared are kept.
    """

    rows: Rows
    columns: Sequence[str]
    floats: Sequence[str]
    others: bool


READERS: dict[str, Reader] = {}


def reader(*columns: str, floats: Sequence[str] = (), others: bool = False) -> Callable[[Rows], Rows]:
    """Declare a function as the reader of the frame of `Results` that has its name."""

    def declare(rows: Rows) -> Rows:
        READERS[rows.__name__] = Reader(rows, columns, floats, others)
        return rows

    return declare


@reader(*NUMBERS, floats=NUMBERS)
def runs(files: RunFiles) -> Iterator[Row]:
    """A row per run: `quality` (top-1 or agreement in %, PSNR in dB), `ssim`, `seconds` of the method's own stages, COSTS."""
    for at, own in by_point(files.metrics):
        quality = own["quality"]
        main = next((quality[name] for name in ("agreement", "top1", "psnr") if name in quality), None)
        measured = {"quality": main, "ssim": quality.get("ssim")}
        yield at | measured | {"seconds": files.seconds} | {name: own.get(name) for name in COSTS}


@reader(*FIDELITY, floats=FIDELITY)
def fidelity(files: RunFiles) -> Iterator[Row]:
    """A row per run that is compared with its float network: `agreement` (%), `kl_divergence` (nats), `logits_snr` (dB)."""
    for at, own in by_point(files.metrics):
        if "agreement" in own["quality"]:
            yield at | {name: own["quality"].get(name) for name in FIDELITY} | {"stored_bytes": own["stored_bytes"]}


@reader("image", "psnr", "ssim")
def images(files: RunFiles) -> Iterator[Row]:
    """A row per photograph."""
    for at, own in by_point(files.metrics):
        yield from (at | {"image": name} | scores for name, scores in own["quality"].get("images", {}).items())


@reader(*SESSION, floats=SCORES)
def sessions(files: RunFiles) -> Iterator[Row]:
    """A row per session of class-incremental learning and draw of the shots.

    `classes` seen so far, `accuracy` on them, on the session's (`new`) and the earlier ones' (`old`), `forgetting`.
    """
    for at, own in by_point(files.metrics):
        yield from (at | {name: row[name] for name in SESSION} for row in own["quality"].get("sessions", []))


@reader("name", "value")
def records(files: RunFiles) -> Iterator[Row]:
    """A row per number that the method recorded; and what is measured of a model as a whole, not of an operating point."""
    if files.metrics.value and "points" in files.metrics.value:
        yield _named("stored_bytes_of_all_points", float(files.metrics.value["stored_bytes"]))
    timed = files.latency.value or {}
    yield from (_named(name, times["median"]) for name, times in timed.get("switching", {}).items())
    if blocks := timed.get("blocks"):
        yield _named("block_sums_rank_correlation", blocks["rank_correlation"])
    for content in files.recorded.values():
        yield from (_named(n, float(v)) for n, v in (content or {}).items() if isinstance(v, int | float))


@reader("name", "value")
def numbers(files: RunFiles) -> Iterator[Row]:
    """A row per number that is a pure function of data, configuration and seed, and so must be reproduced.

    That is every number of metrics.json (`quality.top1`, `macs`, ...) and of every record.json (`compress.NAME`);
    latency.json and run.json hold measured times and what follows from them, and are left out.
    """
    for at, own in by_point(files.metrics):
        yield from (at | _named(name, value) for name, value in flat(_by_session(own)))
    if files.metrics.value and "points" in files.metrics.value:
        beside = {name: value for name, value in files.metrics.value.items() if name != "points"}
        yield from (_named(name, value) for name, value in flat(beside))
    for stage, content in files.recorded.items():
        yield from (_named(name, value) for name, value in flat(content, f"{stage}."))


@reader(*RUNTIME, *TIMES, "processes", "cpu", "own")
def latency(files: RunFiles) -> Iterator[Row]:
    """A row per runtime and number of threads; `own` is false where another run was timed in its place.

    `processes`: how many measured it; `cpu`: the processor. Older files do not name the arithmetic.
    """
    for at, timed in by_point(files.latency):
        cpu = timed.get("machine", {}).get("cpu", "")
        for measured in timed["measurements"]:
            runtime = {name: measured.get(name) for name in RUNTIME}
            where = {"processes": len(measured.get("processes", [measured])), "cpu": cpu, "own": files.timed_itself}
            yield at | runtime | _times(measured) | where


@reader("batch", "images", *TIMES)
def throughput(files: RunFiles) -> Iterator[Row]:
    """A row per batch size; times are per image."""
    for at, timed in by_point(files.latency):
        for measured in timed.get("throughput", []):
            yield at | {"batch": measured["batch"], "images": measured["images"]} | _times(measured)


@reader("runtime", "reason")
def skipped(files: RunFiles) -> Iterator[Row]:
    """A row per runtime that could not run the model, of runs that were timed themselves."""
    if files.timed_itself:
        for at, timed in by_point(files.latency):
            yield from (at | row for row in timed.get("skipped", []))


@reader("stage", "epoch", "loss", "quality", others=True)
def history(files: RunFiles) -> Iterator[Row]:
    """A row per stage and epoch: what was logged, and `quality` (NaN: not validated)."""
    for stage in TRAINING_STAGES:
        frame = read_history(files.folder(stage) / "history.csv")
        if frame is not None:
            yield from ({str(n): v for n, v in row.items()} | {"stage": stage} for row in frame.to_dict("records"))


@reader("result", "reason")
def missing(files: RunFiles) -> Iterator[Row]:
    """A row per expected file that is absent or damaged."""
    expected = {"metrics.json": files.metrics} | ({"latency.json": files.latency} if files.timed else {})
    yield from ({"result": name, "reason": c.reason} for name, c in expected.items() if c.value is None)


def by_point(content: Content) -> list[tuple[Row, Any]]:
    """(POINT, content) of every operating point of a result; of the result itself where it has none."""
    if content.value is None:
        return []
    if "points" not in content.value:
        return [({}, content.value)]
    return [({POINT: point}, own) for point, own in content.value["points"].items()]


def flat(content: Any, prefix: str = "") -> list[tuple[str, float]]:
    """(dotted path, value) of every number in a JSON value."""
    if isinstance(content, int | float):
        return [(prefix.removesuffix("."), float(content))]
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [number for name, value in items for number in flat(value, f"{prefix}{name}.")]


def _named(name: str, value: float) -> Row:
    return {"name": name, "value": value}


def _times(measured: Mapping[str, Any]) -> Row:
    speedup = measured["speedup"]
    milliseconds = {"dense_ms": measured["dense_ms"]["median"], "latency_ms": measured["compressed_ms"]["median"]}
    return milliseconds | {"speedup": speedup["median"], "low": speedup["low"], "high": speedup["high"]}


def _by_session(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics in which sessions are found by name, not by position, with what is measured in them."""
    quality = dict(metrics["quality"])
    if "sessions" in quality:
        rows = quality["sessions"]
        quality["sessions"] = {f"draw{r['draw']}_session{r['session']}": {n: r[n] for n in SCORES} for r in rows}
    return {**metrics, "quality": quality}
