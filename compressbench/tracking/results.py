"""Result files in MLflow's terms: names, tags, parameters, metrics, times."""

import csv
import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from compressbench.config import discovery
from compressbench.errors import UserError
from compressbench.files import read_json
from compressbench.plan import Run
from compressbench.reporting.shapes import damage

KIND, RUN, STAGE = "kind", "run", "stage"  # tags; the kind is RUN or STAGE
RESULT = "result"  # tag: folder and hash of run.json: identifies a logged result
CURVES = "curves"  # tag of a run: the results whose curves it shows
TRAINING = ("compress", "finetune")  # the stages whose curves are those of the run
THROUGHPUT, THROUGHPUT_FILE = "images_per_second", "throughput.csv"
ARTIFACTS = (".json", ".csv", ".png", ".safetensors")


@dataclass(frozen=True)
class Result:
    """A stage that has finished: its folder, and what it left there."""

    root: Path
    folder: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """run.json. UserError names the file when it is damaged."""
        content: dict[str, Any] = read_json(self.folder / "run.json")
        if not isinstance(content, dict) or not {"run", "configuration", "wall_seconds"} <= content.keys():
            raise UserError(
                f"{self.folder / 'run.json'} is not the record of a stage; delete it and run its stage again."
            )
        return content

    @property
    def tags(self) -> dict[str, str]:
        """scale, dataset, model, method, setting, seed, stage."""
        return dict(self.content["run"])

    @cached_property
    def identity(self) -> str:
        """The folder and the hash of its run.json."""
        digest = hashlib.sha256((self.folder / "run.json").read_bytes()).hexdigest()[:12]
        return f"{self.folder.resolve().relative_to(self.root.resolve()).as_posix()}@{digest}"

    @property
    def ended(self) -> int:
        """Milliseconds since 1970, from run.json; of older results, its modification time."""
        if "ended" in self.content:
            return round(datetime.fromisoformat(self.content["ended"]).timestamp() * 1000)
        return round((self.folder / "run.json").stat().st_mtime * 1000)

    @property
    def started(self) -> int:
        """Milliseconds since 1970."""
        if "started" in self.content:
            return round(datetime.fromisoformat(self.content["started"]).timestamp() * 1000)
        return self.ended - round(self.content["wall_seconds"] * 1000)

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The rows of history.csv, without the number of the epoch, and how fast they were trained."""
        rows = self._table("history.csv")
        for speed in self._table(THROUGHPUT_FILE):
            rows[int(speed["row"])][THROUGHPUT] = speed[THROUGHPUT]
        return [{key: value for key, value in row.items() if key != "epoch"} for row in rows]

    def _table(self, name: str) -> list[dict[str, float]]:
        """The rows of a CSV file of numbers, as far as they are filled; none where there is no such file."""
        if not (self.folder / name).exists():
            return []
        with (self.folder / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            return [{key: float(value) for key, value in row.items() if value} for row in rows]
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self.folder / name} is damaged ({error}); delete the folder and run its stage again."
            ) from error

    @property
    def files(self) -> list[Path]:
        """What becomes artifacts: every result file of the folder, the model among them."""
        return sorted(p for p in self.folder.iterdir() if p.suffix in ARTIFACTS and not p.name.startswith("."))


def find(root: Path) -> Iterator[Result]:
    """Every finished stage below results/."""
    for file in sorted(root.glob("results/**/run.json")):
        yield Result(root, file.parent)


def curves(drawn: Iterable[Result]) -> str:
    """The tag CURVES of a run that shows the curves of these results."""
    return " ".join(result.identity for result in drawn) or "none"


def as_run(tags: dict[str, str]) -> Run:
    """The run of a stage's tags."""
    scale, dataset, model, method, setting = (tags[key] for key in ("scale", "dataset", "model", "method", "setting"))
    return Run(scale, dataset, model, method, setting, int(tags["seed"]))


def is_pretraining(tags: dict[str, str]) -> bool:
    """Whether these are the tags of a dense pretraining, which is a run of one stage."""
    return tags["stage"] == "pretrain"


def method_title(root: Path, method: str) -> str:
    """The title of a method; the name of its folder where the method no longer exists."""
    try:
        declared = discovery.declaration(root, method)
    except UserError:
        return method
    from compressbench.reporting.groups import Group

    return Group("", "", (), {method: declared}).short(method)


def run_name(root: Path, tags: dict[str, str]) -> str:
    """The most specific part first: `OptG 95 % · resnet_mini · seed 0`."""
    place = f"{tags['model']} · seed {tags['seed']}"
    if is_pretraining(tags):
        return f"Dense pretraining · {place}"
    return f"{method_title(root, tags['method'])} {setting_label(root, tags)} · {place}"


def setting_label(root: Path, tags: dict[str, str]) -> str:
    """A setting in words."""
    try:
        declared = discovery.declaration(root, tags["method"])
        return declared.label_of(tags["setting"]) if tags["setting"] in declared.settings else tags["setting"]
    except UserError:
        return tags["setting"]


def run_tags(root: Path, tags: dict[str, str]) -> dict[str, str]:
    """The tags of the run that a stage belongs to."""
    own = {key: value for key, value in tags.items() if key != "stage"}
    level = "dense" if is_pretraining(tags) else setting_label(root, tags)
    return own | {"level": level, KIND: RUN, RUN: as_run(tags).name}


def stage_name(root: Path, tags: dict[str, str]) -> str:
    """`finetune · OptG 95 % · resnet_mini · seed 0`."""
    return f"{tags['stage']} · {run_name(root, tags)}"


def stage_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags of a stage."""
    return tags | {KIND: STAGE, RUN: as_run(tags).name}


def source_tags(command: str, code_version: str) -> dict[str, str]:
    """What ran, and which version of the code, as MLflow's columns Source and Version show it."""
    return {
        "mlflow.source.name": f"compressbench {command}".strip(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": code_version,
    }


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"pair": {"patch": 8}} -> {"pair.patch": "8"}."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)[:6000]}
    return leaves


def finite(values: dict[str, Any]) -> dict[str, float]:
    """The finite numbers among the values."""
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: v for k, v in numbers.items() if math.isfinite(v)}


def final_metrics(folder: Path) -> dict[str, float]:
    """The single numbers of a result: of run.json, record.json, metrics.json and latency.json."""
    run = _read(folder / "run.json")
    values: dict[str, float] = {key: run[key] for key in ("wall_seconds", "peak_memory_mb") if key in run}
    if (folder / "record.json").exists():
        values |= _read(folder / "record.json")
    if (folder / "metrics.json").exists():
        for at, measured in _by_point(_read(folder / "metrics.json")):
            numbers = {**measured, **measured.get("quality", {})}
            values |= {at + k: v for k, v in numbers.items() if isinstance(v, int | float)}
    if (folder / "latency.json").exists():
        for at, measured in _by_point(_read(folder / "latency.json")):
            values |= {name: times["median"] for name, times in measured.get("switching", {}).items()}
            if "blocks" in measured:
                values["block_sums_rank_correlation"] = measured["blocks"]["rank_correlation"]
            for m in measured.get("measurements", []):
                name = f"{at}{m['runtime']}.{m['threads']}"
                values |= {f"{name}.ms": m["compressed_ms"]["median"], f"{name}.speedup": m["speedup"]["median"]}
    return values


def _read(file: Path) -> dict[str, Any]:
    """The content of a result file. UserError names it when it is damaged."""
    content: dict[str, Any] = read_json(file)
    if reason := damage(file.name, content):
        raise UserError(f"{file} is damaged ({reason}); delete it and run its stage again.")
    return content


def _by_point(content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(prefix, numbers): what the whole model has, and what each of its operating points has."""
    return [("", content), *((f"{point}.", own) for point, own in content.get("points", {}).items())]
