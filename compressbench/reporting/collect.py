"""Result files -> data frames. Nothing is computed here except flattening."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from compressbench.plan import Run

KEYS = ["dataset", "model", "method", "setting", "seed"]
AT = "@"  # setting@point
COSTS = ["params", "weights", "kept_weights", "macs", "dense_macs", "bit_operations", "stored_bytes"]
NUMBERS = ["quality", "ssim", "seconds", *COSTS]
SESSION = ["draw", "session", "classes", "accuracy", "new", "old", "forgetting"]
TRAINING_STAGES = ("compress", "finetune")
STAGES = ("synthesize", *TRAINING_STAGES, "evaluate", "latency")


@dataclass(frozen=True)
class Results:
    """What one scale has measured so far.

    runs: one row per run that has metrics.json: KEYS, `quality` (top-1 in % or PSNR in dB), `ssim`, `seconds` (wall time of
        the method's own stages), COSTS. A model with several operating points has a row for each, here and in `images`,
        `latency` and `skipped`, at `setting@point`.
    images: one row per (run, photograph): KEYS, `image`, `psnr`, `ssim`.
    sessions: one row per (run, draw of the shots, session) of class-incremental learning: KEYS, `draw`, `session`, `classes`
        seen so far, `accuracy` on them, on the session's (`new`) and the earlier ones' (`old`), `forgetting`.
    records: one row per (run, number recorded by the method): KEYS, `name`, `value`.
    numbers: one row per number that is a pure function of data, configuration and seed, and so must come out equal: KEYS,
        `name`, `value`. That is every number of metrics.json (`quality.top1`, `macs`, ...) and of every record.json
        (`compress.NAME`); latency.json and run.json hold measured times and what follows from them, and are left out.
    latency: one row per (run, executor, threads): KEYS, `dense_ms`, `latency_ms`, `speedup`, `low`, `high`, ...;
        `own` is false where another run was timed in its place.
    throughput: one row per (run, batch size): KEYS, `batch`, `images`, `dense_ms`, `latency_ms` per image, `speedup`, ...
    skipped: one row per (run, executor that could not run the model): KEYS, `executor`, `reason`.
    history: one row per (run, stage, epoch): KEYS, `stage`, `epoch`, what was logged, `quality` (NaN: not validated).
    missing: one row per expected file that is absent or damaged: KEYS, `result`, `reason`.
    expected: the runs of the plan.
    points: (dataset, model, method, setting) -> the operating points of its models, name -> label; others are not in it.
    """

    scale: str
    root: Path
    runs: pd.DataFrame
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
        return self.root / run.folder(stage).relative_to("results")

    def pretraining(self, run: "Run") -> pd.DataFrame | None:
        """The history of the dense model of a run's pair and seed, as in `history` but without keys."""
        path = self.folder(run, "pretrain") / "history.csv"
        return _history(path) if path.exists() else None


def collect(
    results_root: Path, scale: str, expected: Sequence["Run"], timed: Mapping["Run", "Run"] | None = None
) -> Results:
    """Read the results of the expected runs of `scale`.

    Args:
        results_root: the folder that holds `{scale}/{dataset}/...`.
        expected: the runs of the plan; what they lack is listed in `missing`.
        timed: run -> the run whose latency stands for it; default: every run has its own.
    """
    rows: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in ("runs", "images", "sessions", "records", "numbers", "latency", "throughput", "skipped", "missing")
    }
    histories: list[pd.DataFrame] = []
    points: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for run in expected:
        key = {name: getattr(run, name) for name in KEYS}
        folders = {stage: results_root / run.folder(stage).relative_to("results") for stage in STAGES}
        metrics, reason = _read(folders["evaluate"] / "metrics.json")
        if metrics is None:
            rows["missing"].append(key | {"result": "metrics.json", "reason": reason})
        for at, own in _by_point(key, metrics):
            quality = own["quality"]
            measured = quality.get("top1", quality.get("psnr"))
            found = {"quality": measured, "ssim": quality.get("ssim"), "seconds": _seconds(folders)}
            rows["runs"].append(at | found | {c: own.get(c) for c in COSTS})
            rows["images"] += [at | {"image": image} | scores for image, scores in quality.get("images", {}).items()]
            rows["sessions"] += [at | {n: row[n] for n in SESSION} for row in quality.get("sessions", [])]
            rows["numbers"] += [at | {"name": name, "value": value} for name, value in _flat(_named(own))]
        if metrics is not None and "points" in metrics:
            beside = {name: value for name, value in metrics.items() if name != "points"}
            rows["numbers"] += [key | {"name": name, "value": value} for name, value in _flat(beside)]
            labels = points.setdefault((run.dataset, run.model, run.method, run.setting), {})
            labels |= {point: own["label"] for point, own in metrics["points"].items()}
            rows["records"].append(
                key | {"name": "stored_bytes_of_all_points", "value": float(metrics["stored_bytes"])}
            )
        if source := (run if timed is None else timed.get(run)):
            latency, reason = _read(results_root / source.folder("latency").relative_to("results") / "latency.json")
            if latency is None:
                rows["missing"].append(key | {"result": "latency.json", "reason": reason})
            for at, own in _by_point(key, latency):
                rows["latency"] += [at | _measurement(m) | {"own": source == run} for m in own["measurements"]]
                rows["throughput"] += [
                    at | _measurement(m) | {"batch": m["batch"], "images": m["images"]}
                    for m in own.get("throughput", [])
                ]
                rows["skipped"] += [at | dict(s) for s in own.get("skipped", []) if source == run]
            rows["records"] += [
                key | {"name": name, "value": times["median"]}
                for name, times in (latency or {}).get("switching", {}).items()
            ]
            if blocks := (latency or {}).get("blocks"):
                rows["records"].append(
                    key | {"name": "block_sums_rank_correlation", "value": blocks["rank_correlation"]}
                )
        for stage in ("synthesize", *TRAINING_STAGES):
            recorded, _ = _read(folders[stage] / "record.json")
            rows["records"] += [
                key | {"name": n, "value": float(v)} for n, v in (recorded or {}).items() if isinstance(v, int | float)
            ]
            rows["numbers"] += [key | {"name": name, "value": value} for name, value in _flat(recorded, f"{stage}.")]
        for stage in TRAINING_STAGES:
            if (path := folders[stage] / "history.csv").exists() and (history := _history(path)) is not None:
                histories.append(history.assign(**key, stage=stage))
    columns = {
        "runs": [*KEYS, *NUMBERS],
        "images": [*KEYS, "image", "psnr", "ssim"],
        "sessions": [*KEYS, *SESSION],
        "records": [*KEYS, "name", "value"],
        "numbers": [*KEYS, "name", "value"],
        "latency": [
            *KEYS,
            "executor",
            "threads",
            "library",
            "isa",
            "layers",
            "rounds",
            "dense_ms",
            "latency_ms",
            "speedup",
            "low",
            "high",
            "own",
        ],
        "throughput": [*KEYS, "batch", "images", "dense_ms", "latency_ms", "speedup", "low", "high"],
        "skipped": [*KEYS, "executor", "reason"],
        "missing": [*KEYS, "result", "reason"],
    }
    frames = {name: pd.DataFrame(rows[name], columns=columns[name]) for name in columns}
    frames["runs"][NUMBERS] = frames["runs"][NUMBERS].astype(float)
    frames["sessions"][SESSION[3:]] = frames["sessions"][SESSION[3:]].astype(float)
    history = (
        pd.concat(histories, ignore_index=True)
        if histories
        else pd.DataFrame(columns=[*KEYS, "stage", "epoch", "loss", "quality"])
    )
    return Results(scale=scale, root=results_root, history=history, expected=tuple(expected), points=points, **frames)


def _by_point(key: Mapping[str, Any], content: Any) -> list[tuple[dict[str, Any], Any]]:
    """(key, content) of every operating point of a result; of the result itself where there is one only."""
    if content is None:
        return []
    if "points" not in content:
        return [(dict(key), content)]
    return [(dict(key) | {"setting": f"{key['setting']}{AT}{point}"}, own) for point, own in content["points"].items()]


def _read(path: Path) -> tuple[Any, str]:
    """The content of a JSON file, or (None, why not): one damaged file must not cost the report of all others."""
    try:
        return json.loads(path.read_text(encoding="utf-8")), ""
    except FileNotFoundError:
        return None, "not there"
    except (OSError, ValueError) as error:
        return None, f"damaged: {error}"


def _named(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics in which sessions are found by name, not by position, with what is measured in them."""
    quality = dict(metrics["quality"])
    if "sessions" in quality:
        rows = quality["sessions"]
        quality["sessions"] = {f"draw{r['draw']}_session{r['session']}": {n: r[n] for n in SESSION[3:]} for r in rows}
    return {**metrics, "quality": quality}


def _flat(content: Any, prefix: str = "") -> list[tuple[str, float]]:
    """(dotted path, value) of every number in a JSON value."""
    if isinstance(content, int | float):
        return [(prefix.removesuffix("."), float(content))]
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [number for name, value in items for number in _flat(value, f"{prefix}{name}.")]


def _seconds(folders: Mapping[str, Path]) -> float:
    """Wall time of synthesis, compression and fine-tuning, without starting Python; NaN where no stage left its run.json."""
    described = [_read(folders[stage] / "run.json")[0] for stage in ("synthesize", *TRAINING_STAGES)]
    times = [d["wall_seconds"] for d in described if d and "wall_seconds" in d]
    return float(sum(times)) if times else float("nan")


def _measurement(measured: Mapping[str, Any]) -> dict[str, Any]:
    speedup = measured["speedup"]
    return {
        **{name: measured.get(name) for name in ("executor", "threads", "library", "isa", "layers", "rounds")},
        "dense_ms": measured["dense_ms"]["median"],
        "latency_ms": measured["compressed_ms"]["median"],
        "speedup": speedup["median"],
        "low": speedup["low"],
        "high": speedup["high"],
    }


def _history(path: Path) -> pd.DataFrame | None:
    """A history with a column `quality`: the validated top-1 or PSNR, NaN where an epoch was not validated."""
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        return None
    if "epoch" not in frame or "loss" not in frame:
        return None
    for name in ("validation_top1", "validation_psnr"):
        if name in frame:
            return frame.assign(quality=frame[name])
    return frame.assign(quality=float("nan"))
