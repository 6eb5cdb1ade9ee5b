"""What has to run: the runs of a scale, their stages, and the files between them. Does not import torch."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from compressbench.config import Declaration, MethodConfig, Pair, Recipe, Scale, discovery, load_scale, parse
from compressbench.config.forms import Latency
from compressbench.errors import UserError
from compressbench.files import read_json
from compressbench.method import loading
from compressbench.plan import Job, Run, resources
from compressbench.plan.datasets import DataSets
from compressbench.plan.deployments import DeploymentPlan

STAGES = ("synthesize", "compress", "finetune", "evaluate", "latency")
RECIPES = {  # read of the pair, and `processes` where they train; images are synthesized in one
    "pretrain": ("pretrain", "processes"),
    "synthesize": ("scratch", "finetune"),
    **dict.fromkeys(("compress", "finetune"), ("scratch", "finetune", "processes")),
}
REPORTS = Path("reports")  # what is committed
FIRST_RUNS = 8  # after some minutes there is a page about them


def last_run_file(scale: str) -> Path:
    """Where the workflow writes what `--config` said, below the project's folder."""
    return Path(".snakemake", "compressbench", "last_run", f"{scale}.json")


def last_run(root: Path, scale: str) -> dict[str, Any]:
    """To which methods, pairs and seeds the last run of a scale was restricted; empty where it was not, or there was none."""
    file = root / last_run_file(scale)
    said = read_json(file) if file.exists() else {}
    return {name: said[name] for name in ("methods", "pairs", "seeds") if name in said}


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
        with self._naming("methods"):
            for name in self.scale.methods:
                discovery.declaration(root, name)
        self.declarations: dict[str, Declaration] = {name: self._declaration(name) for name in chosen}
        self.seeds = self.scale.seeds if seeds is None else tuple(dict.fromkeys(self._seed(s) for s in seeds))
        self._jobs: dict[tuple[Run, str], Job] = {}
        self.runs: list[Run] = sorted(set(self._runs()))
        self.data = DataSets(root, self.scale, self.runs)
        self.deployments = DeploymentPlan(root, scale, self.scale.deployments, self.declarations)
        if not self.runs and not self.scale.deployments:
            where = "in its config.yaml" if pairs is None else f"with runs on {', '.join(self.pairs)}"
            raise UserError(f"none of the methods {', '.join(chosen)} declares the scale {scale!r} {where}.")

    @staticmethod
    def _seed(value: Any) -> int:
        if isinstance(value, bool) or not str(value).isdecimal():
            raise UserError(
                f"seeds: {value!r} is not a seed; write whole numbers from 0, as in --config 'seeds=[0,1]'."
            )
        return int(value)

    def _declaration(self, name: str) -> Declaration:
        """What the method declares, with what it runs here: as the scale's file says, or as at the scale that this one is
        derived from."""
        declared = discovery.declaration(self.root, name)
        if own := self.scale.methods.get(name):
            for setting in {setting for run in own.runs.values() for setting in run} | set(own.recipes):
                if setting not in declared.settings:
                    raise UserError(
                        f"config/{self.scale_name}.yaml: key methods.{name} names the unknown setting {setting!r}; "
                        f"known: {', '.join(declared.settings)}."
                    )
        at_scale = own or declared.at(self.scale_name, *self.scale.lineage)
        if at_scale is None or at_scale is declared.scales.get(self.scale_name):
            return declared
        return declared.model_copy(update={"scales": {**declared.scales, self.scale_name: at_scale}})

    def _known_pair(self, name: str) -> str:
        if name not in self.scale.pairs:
            raise UserError(
                f"pairs: {name!r} is not a pair of config/{self.scale_name}.yaml; known: {', '.join(self.scale.pairs)}."
            )
        return name

    def _runs(self) -> Iterable[Run]:
        for method, declared in self.declarations.items():
            if (at_scale := declared.scales.get(self.scale_name)) is None:
                continue
            for comparison, settings in at_scale.runs.items():
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

    @cached_property
    def first_runs(self) -> list[Run]:
        """A few runs to begin with: of the pair with most methods, one run of the dense network and of some others.

        Methods take turns with baselines, each at its first setting and with the first seed.
        """
        by_pair: dict[str, dict[str, Run]] = {}
        for method, declared in self.declarations.items():
            for setting in declared.settings:
                for run in (r for r in self.runs if (r.method, r.setting) == (method, setting)):
                    by_pair.setdefault(run.pair, {}).setdefault(method, run)
        most = max(by_pair.values(), key=len, default={})
        families = {method: self.declarations[method].family for method in most}
        dense = [most[m] for m in most if families[m] == "dense"]
        others = [
            [most[m] for m in most if families[m] != "dense" and self.declarations[m].is_baseline == b]
            for b in (False, True)
        ]
        turns = [run for pair in zip_longest(*others) for run in pair if run]
        return [*dense, *turns][:FIRST_RUNS]

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
        own_file = f"{declared.package.replace('.', '/')}/config.yaml, scales.{self.scale_name}"  # type: ignore[union-attr]
        file = f"config/{self.scale_name}.yaml, methods.{run.method}" if run.method in self.scale.methods else own_file
        where = f"{file}.recipes.{run.setting}"
        own: dict[str, Recipe] = {
            name: parse(Recipe, (base.model_dump() if base else {}) | changes, f"{where}.{name}")
            for name, changes in at_scale.recipes[run.setting].items()
            for base in (getattr(pair, name),)
        }
        return self.scale.budgets.of(pair.model_copy(update=own))

    def _require_budgets(self, run: Run) -> None:
        """UserError where a pair of pretrained weights lacks the recipe that a run trains by."""
        needed = "scratch" if self.declarations[run.method].starts_from == "scratch" else "finetune"
        trains = needed == "scratch" or self.final_stage(run) == "finetune"
        if trains and getattr(self.pair(run), needed) is None:
            raise UserError(
                f"config/{self.scale_name}.yaml: key pairs.{run.pair}.{needed} is missing, and {run.method} trains by it."
            )

    def stages(self, run: Run) -> list[str]:
        """The stages of a run, in order. What another setting has synthesized or trained is not made again."""
        declared = self.declarations[run.method]
        shared = run.setting in declared.synthesis_from or run.setting in declared.network_from
        own = [s for s in declared.stages if not (s == "synthesize" and shared)]
        if self.final_stage(run) != "finetune":
            own = [s for s in own if s != "finetune"]
        return [s for s in STAGES if s in own or s == "evaluate" or (s == "latency" and self.timed.get(run) == run)]

    @cached_property
    def unlabelled(self) -> tuple[str, ...]:
        """The pairs whose images have no labels: networks are compared with the dense model there."""
        tasks = {run.pair: self.data.of(run).info.task for run in self.runs}
        return tuple(pair for pair, task in tasks.items() if task == "fidelity")

    @cached_property
    def timed(self) -> dict[Run, Run]:
        """Run -> the run whose latency is used for it: its own, or that of `latency_from` where that setting runs as well.

        Only the first `latency.seeds` seeds are timed.
        """
        runs, seeds = set(self.runs), self.seeds[: self.scale.latency.seeds]
        found = {}
        for run in self.runs:
            other = self.declarations[run.method].latency_from.get(run.setting, run.setting)
            source = replace(run, setting=other)
            if run.seed in seeds and self.scale.pairs[run.pair].timed:
                found[run] = source if source in runs else run
        return found

    def final_stage(self, run: Run) -> str:
        """The stage that leaves the model to evaluate."""
        return self.declarations[run.method].final_stage(run.setting)

    def synthesis_run(self, run: Run) -> Run:
        """The run whose synthetic images `run` uses (itself, or that of `synthesis_from`)."""
        setting = self.declarations[run.method].synthesis_from.get(run.setting, run.setting)
        return replace(run, setting=setting)

    def network_run(self, run: Run) -> Run:
        """The run whose finished network `run` starts from (itself, or that of `network_from`)."""
        setting = self.declarations[run.method].network_from.get(run.setting, run.setting)
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
        pair, read = self.pair(run), self.data.of(run)
        instant = stage != "pretrain" and self.declarations[run.method].is_instant(run.setting, stage)
        common: dict[str, Any] = {
            "run": run,
            "stage": stage,
            "workload": pair.workload(*RECIPES.get(stage, ())),
            "device": "cpu" if instant or stage == "latency" else self.scale.device,
            "instant": instant,
            "data": read.info.folder,
            "data_hash": self.data.hash(read),
            "image_folder": self.data.own(run),
        }
        if stage == "pretrain":
            if pair.pretrained is not None:
                common["workload"] = pair.workload()
            return Job(**common)
        declared = self.declarations[run.method]
        if stage in ("evaluate", "latency"):
            if stage == "latency":
                common |= {"latency": self.latency, "batches": declared.batches}
            inputs = {"model": self.job(run, self.final_stage(run))}
            if stage == "evaluate" and read.info.task == "fidelity":
                inputs["dense"] = self._dense(run)
                return Job(**common, inputs=inputs, files=self.data.beside(read))
            return Job(**common, inputs=inputs)
        configuration, trained = self._configuration(run.method, run.setting), self.network_run(run)
        if trained != run:
            common["workload"] = pair.workload()
        return Job(
            **common,
            configuration=configuration,
            recalibrated=(
                declared.is_sparse
                and stage == self.final_stage(run)
                and declared.settings[run.setting].finetune
                and trained == run
            ),
            inputs=self._inputs(run, stage),
            files={str(value): self._file_hash(value) for _, value in configuration if isinstance(value, Path)},
        )

    def _configuration(self, method: str, setting: str) -> MethodConfig:
        """A method's hyper-parameters, with their defaults."""
        declared = self.declarations[method]
        return self.scale.budgets.within(loading.resolve(self.root, method, setting, self.scale_name, declared))

    def _inputs(self, run: Run, stage: str) -> dict[str, Job]:
        """What a stage of the method itself reads."""
        declared, found = self.declarations[run.method], {}
        if (other := self.network_run(run)) != run:
            return {"finished": self.job(other, self.final_stage(other))}
        if declared.starts_from == "dense":
            found["dense"] = self._dense(run)
        if stage != "synthesize" and "synthesize" in declared.stages:
            found["synthetic"] = self.job(self.synthesis_run(run), "synthesize")
        if stage == "finetune":
            found["model"] = self.job(run, "compress")
        if stage != "synthesize" and declared.needs_teacher:
            found["teacher"] = self.job(self.teacher(run), "pretrain")
        return found

    def _dense(self, run: Run) -> Job:
        """The job that leaves the dense model of a run's pair."""
        return self.job(replace(run, method="", setting=""), "pretrain")

    def _file_hash(self, path: Path) -> str:
        try:
            return hashlib.sha256((self.root / path).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}), which a config.yaml names; correct it there."
            ) from error

    @cached_property
    def latency(self) -> Latency:
        """How models are timed, with the names of the runtimes."""
        from compressbench.runtimes import discovery as runtimes

        declared = self.scale.latency
        with self._naming("latency.runtimes"):
            return declared.model_copy(update={"runtimes": runtimes.chosen(declared.runtimes)})

    def documents(self) -> list[Path]:
        """What the report reads beside the results: titles, levels and families, published numbers, and findings."""
        files = discovery.files(self.root)
        folders = [files[name].parent for name in self.declarations]
        names = ("config.yaml", "published.csv", "README.md")
        return [path for folder in folders for name in names if (path := folder / name).exists()]

    def obstacles(self) -> dict[tuple[str, str], str]:
        """(method, pair) -> why the method cannot compress the network of a pair of its task, in its own words."""
        found = {}
        for method, declared in self.declarations.items():
            setting = next(
                iter(run.setting for run in self.runs if run.method == method), next(iter(declared.settings))
            )
            own = loading.method_class(self.root, method)(self._configuration(method, setting))
            for pair in {run.pair for run in self.runs}:
                task = self.data.of(parse_run(f"{self.scale_name}/{pair}/_/_/seed0")).info.task
                if task in (*declared.task, "fidelity"):
                    try:
                        own.check(self._network(pair))
                    except UserError as error:
                        found[method, pair] = str(error)
        return found

    def validate(self) -> None:
        """Check what needs code (and its imports): runtimes, architectures, every method's configuration of every setting, and
        whether it fits the network. Users' data need not be there (`data.check` asks for them); changed ones are noticed.
        """
        from compressbench import models
        from compressbench.models import pretrained
        from compressbench.runtimes import discovery as runtimes

        named = {"latency": self.latency.runtimes}
        if self.scale.deployments:
            named["deployments"] = self.scale.deployments.runtimes
        for key, names in named.items():
            with self._naming(f"{key}.runtimes"):
                for name in names:
                    runtimes.check(name)
        for name, pair in self.scale.pairs.items():
            dataset, model = name.split("/")
            with self._naming(f"pairs.{name}"):
                self.data.of(Run(self.scale_name, dataset, model, "", "", 0))
            with self._naming(f"pairs.{name}.architecture"):
                models.find(pair.architecture)
            if pair.pretrained is not None:
                with self._naming(f"pairs.{name}.pretrained"):
                    pretrained.check(pair.architecture, pair.pretrained, self.root)
        self.data.renew()
        for run in self.runs:
            self._require_budgets(self.network_run(run))
            self._check_augmentation(run)
            if self.declarations[run.method].needs_teacher:
                self.teacher(run)
            for stage in self.stages(run):
                self.job(run, stage)
        networks = {name: self._network(name) for name in {run.pair for run in self.runs}}
        pairs = {(run.method, run.setting, run.pair): self.pair(run) for run in self.runs}
        for method, setting, where in sorted(pairs):
            config = self._configuration(method, setting)
            try:
                own = loading.method_class(self.root, method)(config)
                own.check(networks[where])
                own.check_recipes(self.pair(parse_run(f"{self.scale_name}/{where}/{method}/{setting}/seed0")))
            except UserError as error:
                raise UserError(f"{method}, setting {setting}, on {where}: {error}") from None

    def _check_augmentation(self, run: Run) -> None:
        """UserError where image files are augmented as they cannot be."""
        pair = self.pair(run)
        recipes = {name: getattr(pair, name) for name in ("scratch", "pretrain", "finetune")}
        padded = [name for name, own in recipes.items() if own and own.augmentation == "crop_flip"]
        if padded and self.data.of(run).of_files:
            raise UserError(
                f"config/{self.scale_name}.yaml: key pairs.{run.pair}.{padded[0]}.augmentation (or what {run.method} says "
                "instead): crop_flip pads small images of one size; for image files write resized_crop_flip."
            )

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """What is wrong is wrong in the scale's file, under this key."""
        try:
            yield
        except UserError as error:
            raise UserError(f"config/{self.scale_name}.yaml: key {key}: {error}") from None

    def _network(self, pair: str) -> Any:
        """The network of a pair without numbers, on the meta device."""
        with self._naming(f"pairs.{pair}"):
            return resources.network(self.scale.pairs[pair].architecture, self.scale.pairs[pair].arguments)
