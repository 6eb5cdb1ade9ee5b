"""What has to run: the runs of a scale, their stages, and the files between them. No torch here."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from compressbench import registry
from compressbench.config import Declaration, Pair, Recipe, Scale, load_scale, parse
from compressbench.errors import UserError

STAGES = ("synthesize", "compress", "finetune", "evaluate", "latency")
MODEL_FILES = ("model.safetensors", "model.json")


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


def parse_run(name: str) -> Run:
    """The inverse of `Run.name`."""
    parts = name.split("/")
    if len(parts) != 6 or not parts[5].removeprefix("seed").isdigit():
        raise UserError(f"{name!r} is not a run; write scale/dataset/model/method/setting/seedN.")
    scale, dataset, model, method, setting, seed = parts
    return Run(scale, dataset, model, method, setting, int(seed.removeprefix("seed")))


class Plan:
    """The runs of one scale, restricted to some methods and with other seeds where asked.

    Args:
        root: the project's folder (config/, methods/).
        scale: smoke, desk or paper.
        methods: names of methods; default all that declare the scale. Their baselines are methods too: name them to run them.
        seeds: default those of config/{scale}.yaml.
    """

    def __init__(
        self, root: Path, scale: str, methods: Iterable[str] | None = None, seeds: Iterable[int] | None = None
    ):
        self.root, self.scale_name = root, scale
        self.scale: Scale = load_scale(root, scale)
        chosen = list(registry.files(root) if methods is None else methods)
        self.declarations: dict[str, Declaration] = {name: registry.declaration(root, name) for name in chosen}
        self.seeds = self.scale.seeds if seeds is None else tuple(self._seed(s) for s in seeds)
        self.runs: list[Run] = sorted(self._runs())
        if not self.runs:
            raise UserError(f"none of the methods {', '.join(chosen)} declares the scale {scale!r} in its config.yaml.")

    @staticmethod
    def _seed(value: Any) -> int:
        if isinstance(value, bool) or not str(value).isdigit():
            raise UserError(
                f"seeds: {value!r} is not a seed; write whole numbers from 0, as in --config 'seeds=[0,1]'."
            )
        return int(value)

    def _runs(self) -> Iterable[Run]:
        for method, declared in self.declarations.items():
            if self.scale_name not in declared.scales:
                continue
            for pair, settings in declared.scales[self.scale_name].runs.items():  # type: ignore[index]
                if pair not in self.scale.pairs:
                    where = f"{declared.package.replace('.', '/')}/config.yaml"
                    raise UserError(
                        f"{where}: key scales.{self.scale_name}.runs: pair {pair!r} is not in config/{self.scale_name}.yaml; "
                        f"known: {', '.join(self.scale.pairs)}."
                    )
                dataset, model = pair.split("/")
                for setting in settings:
                    yield from (Run(self.scale_name, dataset, model, method, setting, seed) for seed in self.seeds)

    def pair(self, run: Run) -> Pair:
        """The pair's budgets, with what the run's setting trains otherwise."""
        pair = self.scale.pairs[run.pair]
        declared = self.declarations.get(run.method)
        at_scale = declared.scales.get(self.scale_name) if declared else None  # type: ignore[call-overload]
        if at_scale is None or run.setting not in at_scale.recipes:
            return pair
        where = f"{declared.package.replace('.', '/')}/config.yaml, scales.{self.scale_name}.recipes.{run.setting}"  # type: ignore[union-attr]
        own = {
            name: parse(Recipe, getattr(pair, name).model_dump() | changes, f"{where}.{name}")
            for name, changes in at_scale.recipes[run.setting].items()
        }
        return pair.model_copy(update=own)

    def stages(self, run: Run) -> list[str]:
        """The stages of a run, in order. Images that another setting synthesizes are not synthesized again."""
        declared = self.declarations[run.method]
        own = [s for s in declared.stages if not (s == "synthesize" and run.setting in declared.synthesis_from)]
        return [s for s in STAGES if s in own or s == "evaluate" or (s == "latency" and self.timed.get(run) == run)]

    @cached_property
    def timed(self) -> dict[Run, Run]:
        """Run -> the run whose latency stands for it: its own, or that of `latency_from` where that setting runs as well.

        Only the first `latency.seeds` seeds are timed.
        """
        runs, seeds = set(self.runs), self.seeds[: self.scale.latency.seeds]
        found = {}
        for run in self.runs:
            other = self.declarations[run.method].latency_from.get(run.setting, run.setting)
            source = replace(run, setting=other)
            if run.seed in seeds:
                found[run] = source if source in runs else run
        return found

    def final_stage(self, run: Run) -> str:
        """The stage that leaves the model to evaluate."""
        return "finetune" if "finetune" in self.declarations[run.method].stages else "compress"

    def synthesis_run(self, run: Run) -> Run:
        """The run whose synthetic images `run` uses (itself, or that of `synthesis_from`)."""
        setting = self.declarations[run.method].synthesis_from.get(run.setting, run.setting)
        return replace(run, setting=setting)

    def teacher(self, run: Run) -> Run:
        """The pair whose dense model teaches in `run`, as a run without method; UserError where there is none."""
        where, name = f"config/{self.scale_name}.yaml: key pairs.{run.pair}.teacher", self.scale.pairs[run.pair].teacher
        if name is None:
            raise UserError(f"{where} is missing, and {run.method} learns from a teacher; name a larger pair there.")
        if name not in self.scale.pairs or name.split("/")[0] != run.dataset:
            fitting = [n for n in self.scale.pairs if n.split("/")[0] == run.dataset and n != run.pair]
            raise UserError(f"{where}: {name!r} is no pair of the same data set; known: {', '.join(fitting)}.")
        dataset, model = name.split("/")
        return Run(run.scale, dataset, model, "", "", run.seed)

    @cached_property
    def teachers(self) -> list[Run]:
        """The teachers of all runs that have one."""
        return sorted({self.teacher(run) for run in self.runs if self.declarations[run.method].needs_teacher})

    def inputs(self, run: Run, stage: str) -> list[Path]:
        """The result files that a stage reads (data/ apart)."""
        declared = self.declarations[run.method]
        dense = [run.folder("pretrain") / f for f in MODEL_FILES] if declared.starts_from == "dense" else []
        if stage == "synthesize":
            return dense
        if stage in ("compress", "finetune"):
            synthetic = (
                [self.synthesis_run(run).folder("synthesize") / "synthetic.safetensors"]
                if "synthesize" in declared.stages
                else []
            )
            previous = [run.folder("compress") / f for f in MODEL_FILES] if stage == "finetune" else []
            teacher = [self.teacher(run).folder("pretrain") / f for f in MODEL_FILES] if declared.needs_teacher else []
            return dense + synthetic + previous + teacher
        return [run.folder(self.final_stage(run)) / f for f in MODEL_FILES]

    def digest(self, run: Run, stage: str) -> str:
        """A hash of the configuration that a stage depends on: the DAG repeats exactly the stages that a change concerns."""
        pair = self.pair(run)
        content: list[Any] = [
            pair.architecture,
            pair.arguments,
            pair.images,
            pair.patch,
            pair.pretrain.model_dump(),
            self.scale.device,
        ]
        if stage == "latency":
            content = [pair.architecture, pair.arguments, self.scale.latency.model_dump()]
        elif stage not in ("pretrain", "evaluate"):
            declared = self.declarations[run.method]
            own = declared.scales[self.scale_name].config | declared.settings[run.setting]  # type: ignore[index]
            content += [own, pair.scratch.model_dump(), pair.finetune.model_dump()]
            if declared.needs_teacher:
                content.append(self.digest(self.teacher(run), "pretrain"))
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def validate(self) -> None:
        """Check what needs code (and its imports): architectures, and every method's configuration of every setting."""
        from compressbench import data, models

        for name, pair in self.scale.pairs.items():
            data.info(name.split("/")[0])
            if pair.architecture not in models.ARCHITECTURES:
                raise UserError(
                    f"config/{self.scale_name}.yaml: key pairs.{name}.architecture: unknown {pair.architecture!r}; "
                    f"known: {', '.join(models.ARCHITECTURES)}."
                )
        for run in self.runs:
            self.pair(run)
            if self.declarations[run.method].needs_teacher:
                self.teacher(run)
        for method, setting in sorted({(r.method, r.setting) for r in self.runs}):
            registry.resolve(self.root, method, setting, self.scale_name)
