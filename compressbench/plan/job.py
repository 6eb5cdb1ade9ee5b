"""A job: all inputs of one stage of one run, resolved once for the DAG, the stage and run.json.

A stage gets its values from its job and from nowhere else, and the digest covers the whole job: what a stage reads cannot
change without the digest. The digests of the jobs whose results it reads are part of it, so that it stands for everything
that made a result. No torch here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.config import ImageFolder, Latency, Workload

if TYPE_CHECKING:
    from compressbench.config import MethodConfig

MODEL_FILES = ("model.safetensors", "model.json")
SYNTHETIC_FILE = "synthetic.safetensors"


@dataclass(frozen=True, order=True)
class Run:
    """One method with one setting on one (dataset, model), with one seed."""

    scale: str
    dataset: str
    model: str
    method: str
    setting: str
    seed: int

    @property
    def pair(self) -> str:
        return f"{self.dataset}/{self.model}"

    @property
    def name(self) -> str:
        return f"{self.scale}/{self.pair}/{self.method}/{self.setting}/seed{self.seed}"

    def folder(self, stage: str) -> Path:
        """results/{scale}/{dataset}/{model}/{method}/{setting}/seed{seed}/{stage}; the dense model is shared."""
        if stage == "pretrain":
            return Path("results", self.scale, self.pair, "pretrain", f"seed{self.seed}")
        return Path("results", self.name, stage)


@dataclass(frozen=True)
class Job:
    """One stage of one run.

    Attributes:
        workload: what the stage reads of the pair.
        device: cpu, cuda or auto; cpu where the stage measures latency or is instant.
        data, data_hash: the folder of the data set below data/, and what stands for its content: the pinned hash, or that of
            a manifest; None where nothing does.
        image_folder: the data set, where the scale has one of its own.
        configuration: of the method, with its defaults; None where the stage does not call the method.
        instant: whether the stage takes seconds on a processor, for schedulers only.
        recalibrated: whether the stage ends with fresh batch-norm statistics.
        latency, batches: how the latency stage measures.
        inputs: the jobs whose results the stage reads, by what they are to it: dense, teacher, synthetic, finished or model.
        files: other files of the project that the configuration names -> sha256; of an evaluation without labels the labelled
            data set on which accuracy is measured beside, where it is there -> the hash of its content.
    """

    run: Run
    stage: str
    workload: Workload
    device: str
    data: str
    data_hash: str | None = None
    image_folder: ImageFolder | None = None
    configuration: "MethodConfig | None" = None
    recalibrated: bool = False
    instant: bool = False
    latency: Latency | None = None
    batches: tuple[int, ...] = ()
    inputs: Mapping[str, "Job"] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the stage leaves its files, below the project's folder."""
        return self.run.folder(self.stage)

    @property
    def paths(self) -> list[Path]:
        """The result files that the stage reads."""
        return [job.folder / file for job in self.inputs.values() for file in job.results]

    @property
    def results(self) -> tuple[str, ...]:
        """What later stages and the report read of this one."""
        own = {"synthesize": SYNTHETIC_FILE, "evaluate": "metrics.json", "latency": "latency.json"}
        return (own[self.stage],) if self.stage in own else MODEL_FILES

    @property
    def tags(self) -> dict[str, str]:
        """scale, dataset, model, method, setting, seed, stage: the name of the job in run.json and in MLflow."""
        method, setting = ("pretrain", "dense") if self.stage == "pretrain" else (self.run.method, self.run.setting)
        return {
            "scale": self.run.scale, "dataset": self.run.dataset, "model": self.run.model, "method": method,
            "setting": setting, "seed": str(self.run.seed), "stage": self.stage,
        }  # fmt: skip

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The configuration, for people: what the stage reads of the pair, and the method's hyper-parameters."""
        found: dict[str, Any] = {"pair": self.workload.model_dump(mode="json", exclude_none=True)}
        if self.image_folder is not None:
            found |= {"image_folder": self.image_folder.model_dump(mode="json")}
        if self.latency is not None:
            found |= {"latency": self.latency.model_dump(mode="json"), "batches": list(self.batches)}
        if self.configuration is not None:
            found |= self.configuration.model_dump(mode="json")
        return found

    @cached_property
    def digest(self) -> str:
        """A hash of everything that the stage reads: equal exactly where the results have to be."""
        content = {
            "parameters": self.parameters,
            "tags": {key: self.tags[key] for key in ("dataset", "method", "seed", "stage")},
            "device": self.device,
            "data": self.data_hash,
            "recalibrated": self.recalibrated,
            "inputs": {name: job.digest for name, job in self.inputs.items()},
            "files": dict(self.files),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
