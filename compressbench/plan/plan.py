"""What has to run: the runs of a scale, their stages, and the files between them. No torch here."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from compressbench.config import Declaration, Pair, Recipe, Scale, discovery, load_scale, parse
from compressbench.errors import UserError
from compressbench.method import loading
from compressbench.plan import Job, Run

STAGES = ("synthesize", "compress", "finetune", "evaluate", "latency")
RECIPES = {  # read of the pair, and `processes` where they train; images are synthesized in one
    "pretrain": ("pretrain", "processes"),
    "synthesize": ("scratch", "finetune"),
    **dict.fromkeys(("compress", "finetune"), ("scratch", "finetune", "processes")),
}
REPORTS = Path("reports")  # what is committed


def parse_run(name: str) -> Run:
    """The inverse of `Run.name`."""
    parts = name.split("/")
    if len(parts) != 6 or not parts[5].removeprefix("seed").isdecimal():
        raise UserError(f"{name!r} is not a run; write scale/dataset/model/method/setting/seedN.")
    scale, dataset, model, method, setting, seed = parts
    return Run(scale, dataset, model, method, setting, int(seed.removeprefix("seed")))


class Plan:
    """The runs of one scale, restricted to some methods or pairs and with other seeds where asked.

    Args:
        root: the project's folder (config/, methods/).
        scale: the name of a file in config/, such as smoke, desk or paper.
        methods: names of methods; default all that declare the scale. Their baselines are methods too: name them to run them.
        seeds: default those of config/{scale}.yaml.
        pairs: dataset/model; default all of config/{scale}.yaml.
    """

    def __init__(
        self,
        root: Path,
        scale: str,
        methods: Iterable[str] | None = None,
        seeds: Iterable[int] | None = None,
        pairs: Iterable[str] | None = None,
    ):
        self.root, self.scale_name = root, scale
        self.scale: Scale = load_scale(root, scale)
        self.pairs = tuple(self.scale.pairs) if pairs is None else tuple(dict.fromkeys(map(self._known_pair, pairs)))
        chosen = list(discovery.files(root) if methods is None else methods)
        self.declarations: dict[str, Declaration] = {name: discovery.declaration(root, name) for name in chosen}
        self.seeds = self.scale.seeds if seeds is None else tuple(dict.fromkeys(self._seed(s) for s in seeds))
        self._jobs: dict[tuple[Run, str], Job] = {}
        self.runs: list[Run] = sorted(set(self._runs()))
        if not self.runs:
            where = "in its config.yaml" if pairs is None else f"with runs on {', '.join(self.pairs)}"
            raise UserError(f"none of the methods {', '.join(chosen)} declares the scale {scale!r} {where}.")

    @staticmethod
    def _seed(value: Any) -> int:
        if isinstance(value, bool) or not str(value).isdecimal():
            raise UserError(
                f"seeds: {value!r} is not a seed; write whole numbers from 0, as in --config 'seeds=[0,1]'."
            )
        return int(value)

    def _known_pair(self, name: str) -> str:
        if name not in self.scale.pairs:
            raise UserError(
                f"pairs: {name!r} is not a pair of config/{self.scale_name}.yaml; known: {', '.join(self.scale.pairs)}."
            )
        return name

    def _runs(self) -> Iterable[Run]:
        for method, declared in self.declarations.items():
            if self.scale_name not in declared.scales:
                continue
            for comparison, settings in declared.scales[self.scale_name].runs.items():
                if comparison not in self.scale.comparisons:
                    where = f"{declared.package.replace('.', '/')}/config.yaml"
                    raise UserError(
                        f"{where}: key scales.{self.scale_name}.runs: comparison {comparison!r} is not in "
                        f"config/{self.scale_name}.yaml; known: {', '.join(self.scale.comparisons)}."
                    )
                for pair, setting in product(self.scale.comparisons[comparison], settings):
                    if pair in self.pairs:
                        dataset, model = pair.split("/")
                        yield from (Run(self.scale_name, dataset, model, method, setting, seed) for seed in self.seeds)

    @property
    def claims_reports(self) -> bool:
        """Whether this is the run that reports/ is about: all methods and pairs, with exactly the scale's `report_seeds`."""
        all_methods = set(self.declarations) == set(discovery.own_files(self.root))
        return (
            all_methods and set(self.pairs) == set(self.scale.pairs) and set(self.seeds) == set(self.scale.report_seeds)
        )

    @property
    def report_folder(self) -> Path:
        """Where the report goes: reports/ is rewritten only by the run that it is about."""
        return REPORTS if self.claims_reports else Path("results", self.scale_name, "report")

    @property
    def committed_report(self) -> Path | None:
        """The report that a run is compared with; None where none of this scale is committed."""
        return REPORTS if self.scale.report_seeds else None

    def pair(self, run: Run) -> Pair:
        """The pair's budgets, with what the run's setting trains otherwise."""
        pair = self.scale.pairs[run.pair]
        declared = self.declarations.get(run.method)
        at_scale = declared.scales.get(self.scale_name) if declared else None
        if at_scale is None or run.setting not in at_scale.recipes:
            return pair
        where = f"{declared.package.replace('.', '/')}/config.yaml, scales.{self.scale_name}.recipes.{run.setting}"  # type: ignore[union-attr]
        own: dict[str, Recipe] = {
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

    def job(self, run: Run, stage: str) -> Job:
        """Everything that a stage of a run reads. Imports the method, whose defaults are part of it."""
        if (run, stage) not in self._jobs:
            self._jobs[run, stage] = self._job(run, stage)
        return self._jobs[run, stage]

    def _job(self, run: Run, stage: str) -> Job:
        from compressbench import data

        pair = self.pair(run)
        folder = data.info(pair.data or run.dataset).folder
        common: dict[str, Any] = {
            "run": run,
            "stage": stage,
            "workload": pair.workload(*RECIPES.get(stage, ())),
            "device": self.scale.device,
            "data": folder,
            "data_hash": self.data_hashes.get(folder),
        }
        if stage == "pretrain":
            return Job(**common)
        declared = self.declarations[run.method]
        if stage in ("evaluate", "latency"):
            if stage == "latency":
                common |= {"latency": self.scale.latency, "batches": declared.batches}
            return Job(**common, inputs={"model": self.job(run, self.final_stage(run))})
        configuration = loading.resolve(self.root, run.method, run.setting, self.scale_name)
        return Job(
            **common,
            configuration=configuration,
            recalibrated=declared.is_sparse and stage == self.final_stage(run),
            inputs=self._inputs(run, stage),
            files={str(value): self._file_hash(value) for _, value in configuration if isinstance(value, Path)},
        )

    def _inputs(self, run: Run, stage: str) -> dict[str, Job]:
        """What a stage of the method itself reads."""
        declared, found = self.declarations[run.method], {}
        if declared.starts_from == "dense":
            found["dense"] = self.job(replace(run, method="", setting=""), "pretrain")
        if stage != "synthesize" and "synthesize" in declared.stages:
            found["synthetic"] = self.job(self.synthesis_run(run), "synthesize")
        if stage == "finetune":
            found["model"] = self.job(run, "compress")
        if stage != "synthesize" and declared.needs_teacher:
            found["teacher"] = self.job(self.teacher(run), "pretrain")
        return found

    @cached_property
    def data_hashes(self) -> dict[str, str]:
        """The pinned hash of every data set below data/."""
        from compressbench.data import versioning

        return versioning.pinned_hashes(self.root)

    def _file_hash(self, path: Path) -> str:
        try:
            return hashlib.sha256((self.root / path).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}), which a config.yaml names; correct it there."
            ) from error

    def documents(self) -> list[Path]:
        """What the report reads beside the results: titles, levels and families, published numbers, and findings."""
        files = discovery.files(self.root)
        folders = [files[name].parent for name in self.declarations]
        names = ("config.yaml", "published.csv", "README.md")
        return [path for folder in folders for name in names if (path := folder / name).exists()]

    def validate(self) -> None:
        """Check what needs code (and its imports): runtimes, architectures, every method's configuration of every setting, and
        whether it fits the network."""
        from compressbench import data, models
        from compressbench.runtimes import discovery as runtimes

        for name in self.scale.latency.runtimes:
            with self._naming("latency.runtimes"):
                runtimes.check(name)
        for name, pair in self.scale.pairs.items():
            with self._naming(f"pairs.{name}"):
                data.info(pair.data or name.split("/")[0])
            with self._naming(f"pairs.{name}.architecture"):
                models.find(pair.architecture)
        for run in self.runs:
            self.pair(run)
            if self.declarations[run.method].needs_teacher:
                self.teacher(run)
            for stage in self.stages(run):
                self.job(run, stage)
        networks = {name: self._network(name) for name in {run.pair for run in self.runs}}
        for method, setting, where in sorted({(r.method, r.setting, r.pair) for r in self.runs}):
            config = loading.resolve(self.root, method, setting, self.scale_name)
            try:
                own = loading.method_class(self.root, method)(config)
                own.check(networks[where])
                own.check_recipes(self.pair(parse_run(f"{self.scale_name}/{where}/{method}/{setting}/seed0")))
            except UserError as error:
                raise UserError(f"{method}, setting {setting}, on {where}: {error}") from None

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """What is wrong is wrong in the scale's file, under this key."""
        try:
            yield
        except UserError as error:
            raise UserError(f"config/{self.scale_name}.yaml: key {key}: {error}") from None

    def _network(self, pair: str) -> Any:
        """The network of a pair without numbers, on the meta device."""
        import torch

        from compressbench import models

        with self._naming(f"pairs.{pair}"), torch.device("meta"):
            return models.build(self.scale.pairs[pair].architecture, **self.scale.pairs[pair].arguments)
