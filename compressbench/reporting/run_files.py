"""The result files of one run, as their content: what is missing or damaged has none."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from compressbench.reporting.shapes import damage

if TYPE_CHECKING:
    from compressbench.plan import Run

TRAINING_STAGES = ("compress", "finetune")
OWN_STAGES = ("synthesize", *TRAINING_STAGES)
STAGES = (*OWN_STAGES, "evaluate", "latency")


class Content(NamedTuple):
    """What a JSON file holds: None where it is missing or damaged, with the reason."""

    value: Any
    reason: str = ""


def read(path: Path) -> Content:
    """The content of a result file, as `shapes` says: one damaged file must not cost the report of all others."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Content(None, "not there")
    except (OSError, ValueError) as error:
        return Content(None, f"damaged: {error}")
    reason = damage(path.name, value)
    return Content(None, f"damaged: {reason}") if reason else Content(value)


def stage_folder(root: Path, run: "Run", stage: str) -> Path:
    """The folder of a stage under the results root."""
    return root / run.folder(stage).relative_to("results")


@dataclass(frozen=True)
class RunFiles:
    """The result files of one run, each read once.

    root: the folder that holds `{scale}/{dataset}/...`.
    timed: the run whose latency is used for this one; None where none is expected.
    """

    root: Path
    run: "Run"
    timed: "Run | None"

    def folder(self, stage: str) -> Path:
        """The folder of one of the run's stages."""
        return stage_folder(self.root, self.run, stage)

    @property
    def timed_itself(self) -> bool:
        """Whether no other run is timed in its place."""
        return self.timed == self.run

    @cached_property
    def metrics(self) -> Content:
        """Of metrics.json."""
        return read(self.folder("evaluate") / "metrics.json")

    @cached_property
    def latency(self) -> Content:
        """Of latency.json, of the run that was timed."""
        if self.timed is None:
            return Content(None)
        return read(stage_folder(self.root, self.timed, "latency") / "latency.json")

    @property
    def labels(self) -> dict[str, str]:
        """The operating points of the model, name -> label; nothing where it has none."""
        return {point: own["label"] for point, own in (self.metrics.value or {}).get("points", {}).items()}

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """The content of each record.json, by stage; None where a stage left none."""
        return {stage: read(self.folder(stage) / "record.json").value for stage in OWN_STAGES}

    @cached_property
    def seconds(self) -> float:
        """Wall time of the method's own stages, without starting Python; NaN where no stage left its run.json."""
        described = [read(self.folder(stage) / "run.json").value for stage in OWN_STAGES]
        times = [seconds for d in described if d and (seconds := d.get("wall_seconds")) is not None]
        return float(sum(times)) if times else float("nan")


def read_history(path: Path) -> pd.DataFrame | None:
    """A history with a column `quality`: the validated top-1 or PSNR, NaN where an epoch was not validated."""
    if not path.exists():
        return None
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        return None
    validated = next((name for name in ("validation_top1", "validation_psnr") if name in frame), None)
    wanted = ["epoch", "loss", *([validated] if validated else [])]
    if not all(name in frame and pd.api.types.is_numeric_dtype(frame[name]) for name in wanted):
        return None
    return frame.assign(quality=frame[validated] if validated else float("nan"))
