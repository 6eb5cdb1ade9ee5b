"""The forms of config/*.yaml and of every method's config.yaml, as validated, frozen, typed models.

This module imports neither torch nor a method: the DAG reads it thousands of times.
"""

from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressbench.config.levels import NONE, Level, Quantities, levels, variant_words, words

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
PairName = Annotated[str, Field(pattern=r"^[a-z0-9_]+/[a-z0-9_]+$", description="dataset/model")]
Stage = Literal["synthesize", "compress", "finetune"]
Start = Literal["scratch", "dense"]
Positive = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    """Immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodConfig(Frozen):
    """Base of a method's hyper-parameters; the defaults are the paper's."""


AnyConfig = TypeVar("AnyConfig", bound=MethodConfig)


class Recipe(Frozen):
    """How a network is trained."""

    epochs: int = Field(ge=1, description="passes over the training data, or blocks of steps_per_epoch")
    steps_per_epoch: int | None = Field(None, ge=1, description="optimiser steps per epoch; default: one pass")
    batch_size: int = Field(128, ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)
    warmup_epochs: float = Field(0, ge=0, description="linear warm-up, per step")
    schedule: Literal["cosine", "cosine_by_epoch", "constant", "halve", "step"] = Field(
        "cosine", description="after the warm-up; cosine falls with every step, the others with epochs"
    )
    halve_every: int | None = Field(None, ge=1, description="epochs between halvings, with schedule: halve")
    milestones: tuple[int, ...] = Field((), description="epochs that divide the rate by 10, with schedule: step")
    augmentation: Literal["none", "flip", "crop_flip", "resized_crop_flip"] = Field(
        "none", description="crop_flip pads and cuts small images; resized_crop_flip cuts any part of 8 to 100 %"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    patch: int | None = Field(
        None, ge=8, exclude_if=lambda side: side is None, description="as the pair's, where this training has its own"
    )

    precision: Literal["fp32", "bf16"] = Field(
        "fp32", exclude_if=lambda name: name == "fp32", description="of the forward pass; bf16: torch.autocast"
    )
    accumulate: int = Field(
        1,
        ge=1,
        exclude_if=lambda parts: parts == 1,
        description="micro-batches that a batch is divided into, one after the other; batch normalisation sees each alone",
    )
    compile: bool = Field(False, exclude_if=lambda on: not on, description="train the network under torch.compile")
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda steps: steps is None,
        description="checkpoints after so many steps, too; default: at the end of an epoch only",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.schedule == "halve") != (self.halve_every is not None):
            raise ValueError("halve_every goes with schedule: halve, and only with it")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("milestones go with schedule: step, and only with it")
        if self.schedule == "cosine_by_epoch" and self.warmup_epochs >= self.epochs:
            raise ValueError("cosine_by_epoch needs fewer warmup_epochs than epochs")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate divides no batch of {self.batch_size} into equal parts")
        return self


class Pretrained(Frozen):
    """Trained weights that take the place of pretraining."""

    source: Literal["torchvision", "timm", "package", "file"] = Field(
        description="whose names the tensors have, and whose preprocessing the images get; file: those of the network, this "
        "suite's or one's own, and of the data set"
    )
    name: str | None = Field(
        None,
        description="torchvision: of the weights, such as ResNet18_Weights.IMAGENET1K_V1; timm: of the model; package: of an "
        "installed package that ships weights",
    )
    file: str | None = Field(
        None,
        description=".pth or .safetensors, relative to the project's folder, with source: package to the package's; default, "
        "torchvision and timm only: the file of that name in PyTorch's cache, downloaded where it is not there",
    )
    sha256: str = Field(
        pattern=r"^[0-9a-f]{8,64}$",
        description="of the file, or its first 8 digits or more, as they end published names",
    )

    @model_validator(mode="after")
    def _complete(self) -> "Pretrained":
        if (self.source == "file") == (self.name is not None):
            raise ValueError("name goes with every source but file, whose tensors have the names of the network")
        if self.source in ("package", "file") and self.file is None:
            raise ValueError(f"source: {self.source} needs file")
        return self


class Workload(Frozen):
    """What a stage reads of a pair: the architecture at full size, its part of the data, and the recipes that the stage has."""

    architecture: str = Field(description="of the suite, of an installed package, or package.module:attribute")
    arguments: dict[str, Any] = {}
    data: str | None = Field(
        None,
        exclude_if=lambda name: name is None,
        description="package.module:attribute of a data set of one's own; default: the one that the pair is named after",
    )
    images: int | None = Field(None, ge=1, description="training images used; default: all")
    patch: int | None = Field(None, ge=8, description="low-resolution patch size, super-resolution only")
    pretrained: Pretrained | None = Field(
        None,
        exclude_if=lambda weights: weights is None,
        description="weights of the dense model, in place of pretraining; their preprocessing replaces the data set's own",
    )
    scratch: Recipe | None = None
    pretrain: Recipe | None = None
    finetune: Recipe | None = None
    processes: int = Field(
        1,
        ge=1,
        exclude_if=lambda count: count == 1,
        description="that train one network together on one machine, each with its share of every batch; on GPUs, one on each",
    )

    @model_validator(mode="after")
    def _divides(self) -> "Workload":
        for name in ("scratch", "pretrain", "finetune"):
            recipe: Recipe | None = getattr(self, name)
            if recipe and recipe.batch_size % (self.processes * recipe.accumulate):
                raise ValueError(
                    f"{name}.batch_size {recipe.batch_size} cannot be divided into equal parts for {self.processes} processes"
                    + (f" with accumulate: {recipe.accumulate}" if recipe.accumulate > 1 else "")
                )
        return self


class Pair(Workload):
    """One (dataset, model): the architecture at full size and the budgets that every method on it shares."""

    teacher: PairName | None = Field(
        None, description="the pair whose dense model teaches here, for methods with needs_teacher"
    )
    scratch: Recipe | None = Field(None, description="the total budget, for methods that train from random weights")
    pretrain: Recipe | None = Field(None, description="the shared dense model, for methods that compress a trained one")
    finetune: Recipe | None = Field(None, description="what those methods may train after it")
    timed: bool = Field(True, description="whether the latency stage measures the networks of this pair")

    @model_validator(mode="after")
    def _has_budgets(self) -> "Pair":
        missing = [name for name in ("scratch", "pretrain", "finetune") if getattr(self, name) is None]
        if missing and self.pretrained is None:
            raise ValueError(f"{missing[0]} is missing; only a pair with pretrained weights may leave out a recipe")
        return self

    def workload(self, *read: str) -> Workload:
        """What every stage reads of the pair, and the named recipes or `processes`."""
        names = ("architecture", "arguments", "data", "images", "patch", "pretrained", *read)
        return Workload(**{name: getattr(self, name) for name in names})


class Budget(Frozen):
    """What a derived scale changes of a recipe; what is not given stays."""

    epochs: int | None = Field(default=None, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    warmup_epochs: float | None = Field(default=None, ge=0)

    def of(self, recipe: Recipe) -> Recipe:
        """`recipe` with this budget."""
        return recipe.model_copy(update=self.model_dump(exclude_none=True))


class Budgets(Frozen):
    """The budgets of a derived scale, for every pair."""

    scratch: Budget = Budget()
    pretrain: Budget = Budget()
    finetune: Budget = Field(default=Budget(), description="also of the recipes among a method's hyper-parameters")

    def of(self, pair: Pair) -> Pair:
        """`pair` with these budgets."""
        recipes = {name: getattr(pair, name) for name in ("scratch", "pretrain", "finetune")}
        return pair.model_copy(update={name: getattr(self, name).of(own) for name, own in recipes.items() if own})

    def within(self, config: AnyConfig) -> AnyConfig:
        """A method's hyper-parameters with the budget of `finetune` for every recipe among them."""
        recipes = {name: value for name, value in config if isinstance(value, Recipe)}
        return config.model_copy(update={name: self.finetune.of(recipe) for name, recipe in recipes.items()})


class Changes(Frozen):
    """What a derived scale says in the place of the other one."""

    comparisons: dict[Name, tuple[PairName, ...]] = {}
    pairs: dict[PairName, Pair] = {}


class ImageFolder(Frozen):
    """A data set of one's own: PATH/train/CLASS/* and PATH/val/CLASS/*, images of any size.

    The classes are the folders of train, sorted. The images that are held out for validation come out of train.
    """

    kind: Literal["image_folder"]
    path: str = Field(
        exclude=True,
        description="below COMPRESSBENCH_DATA (default: data/external), or an absolute path; no result knows it",
    )
    size: int = Field(224, ge=8, description="side of the network's input")
    resize: int | None = Field(
        None, ge=8, description="pixels of the shorter side before the centre is cut out; default: size * 256 / 224"
    )
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="of the pixels scaled to [0, 1]")
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    classes: int | None = Field(
        None,
        ge=1,
        description="of the networks, where that is more than train has folders; default: as many as folders",
    )
    validation: int = Field(5000, ge=0, description="training images held out, at most a tenth of them")
    hash: Literal["names", "sample", "all"] = Field(
        "sample",
        description="what stands for the data: names and sizes, also 1,000 files' content, or also all content",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ImageFolder":
        if self.resize is not None and self.resize < self.size:
            raise ValueError("resize must be at least size, or the centre would have a black frame")
        return self


class Latency(Frozen):
    """How the latency stage measures."""

    rounds: int = Field(
        50, ge=30, description="interleaved rounds of the dense and the compressed model, in all processes together"
    )
    processes: int = Field(
        1,
        ge=1,
        exclude_if=lambda count: count == 1,
        description="that measure the same, one after the other: speed-ups differ between processes",
    )
    warmup: int = Field(5, ge=1)
    runtimes: tuple[str, ...] = Field(
        ("torch_eager", "onnxruntime"),
        description="*: every other one of compressbench/runtimes, but those of -PATTERN",
    )
    seeds: int = Field(
        1, ge=0, description="measure the models of the first so many seeds: latency hardly depends on them; 0: of none"
    )


class MethodScale(Frozen):
    """What a method runs at one scale."""

    runs: dict[str, tuple[Name, ...]] = Field(
        {}, description="comparison -> settings; a derived scale has those of the scale that it is derived from"
    )
    config: dict[str, Any] = Field({}, description="hyper-parameters that differ from the paper's at this scale")
    budget: dict[str, Any] = Field(
        {}, description="hyper-parameters of a derived scale that win over those of the settings: lengths, no more"
    )
    recipes: dict[Name, dict[Literal["scratch", "finetune"], dict[str, Any]]] = Field(
        {}, description="setting -> recipe -> what the paper trains otherwise than the pair says"
    )


class Deployments(Frozen):
    """What is timed of the networks that methods deploy at the papers' own sizes, with random weights."""

    settings: Literal["all", "representative"] = Field("all", description="of a method; representative: one")
    processes: int = Field(3, ge=1, description="how many processes measure the same: speed-ups differ between them")
    rounds: int = Field(10, ge=1, description="interleaved rounds of each process")
    threads: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    runtimes: tuple[str, ...] = ("torch_eager", "onnxruntime", "compressbench")

    @model_validator(mode="after")
    def _enough_rounds(self) -> "Deployments":
        if self.processes * self.rounds < 30:
            raise ValueError("processes * rounds must be at least 30")
        return self


class Scale(Frozen):
    """config/{scale}.yaml: which pairs are for which comparisons, with which budgets and seeds."""

    seeds: tuple[int, ...] = Field(min_length=1)
    report_seeds: tuple[int, ...] = Field(
        (), description="the seeds that reports/ is about: only a run of exactly these, with all methods, rewrites it"
    )
    derived_from: Name | None = Field(
        None,
        description="the scale whose pairs, comparisons and runs of the methods these are, with other `budgets`; what is said "
        "here of a comparison or a pair takes its place there, and pairs that are left without a use go",
    )
    lineage: tuple[Name, ...] = Field(
        (), description="filled in by the reader: the scales that this one is derived from, the nearest one first"
    )
    budgets: Budgets = Field(Budgets(), description="of a derived scale")
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    latency: Latency = Field(default_factory=lambda: Latency.model_validate({}))
    deployments: Deployments | None = Field(
        None, description="time what methods deploy on the networks of their papers"
    )
    comparisons: dict[Name, tuple[PairName, ...]] = Field(
        {},
        description="what is compared -> on which pairs; methods name the comparisons that they take part in",
    )
    datasets: dict[Name, ImageFolder] = Field(
        {},
        description="data sets of one's own by the name that pairs give them; one of the suite's names replaces it here",
    )
    pairs: dict[PairName, Pair] = {}
    multiples: dict[PairName, Positive] = Field(
        {},
        description="pairs that differ in their budgets only -> budget as a multiple of the least; the report compares them",
    )
    methods: dict[Name, MethodScale] = Field(
        {}, description="method -> what it runs here, in the place of what its own config.yaml says of this scale"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Scale":
        if unread := set(self.datasets) - {pair.split("/")[0] for pair in self.pairs}:
            raise ValueError(
                f"datasets.{min(unread)} is read by no pair; name a pair {min(unread)}/NETWORK, or remove it"
            )
        for method, own in self.methods.items():
            if unknown := sorted(set(own.runs) - set(self.comparisons)):
                raise ValueError(
                    f"methods.{method}.runs names the unknown comparison {unknown[0]!r}; known: {', '.join(self.comparisons)}"
                )
        for comparison, pairs in self.comparisons.items():
            for pair in pairs:
                if pair not in self.pairs:
                    raise ValueError(
                        f"comparisons.{comparison} names the unknown pair {pair!r}; known: {', '.join(self.pairs)}"
                    )
        if unknown_pairs := sorted(set(self.multiples) - set(self.pairs)):
            raise ValueError(f"multiples names the unknown pair {unknown_pairs[0]!r}; known: {', '.join(self.pairs)}")
        if not self.pairs and self.deployments is None:
            raise ValueError("there are no pairs and no deployments, so that nothing would run; add some")
        used = set(chain(*self.comparisons.values(), (pair.teacher for pair in self.pairs.values())))
        if idle := [pair for pair in self.pairs if pair not in used]:
            raise ValueError(
                f"pairs.{idle[0]} is in no comparison and teaches no other pair, so that nothing would run on it; "
                f"add it to one of comparisons: {', '.join(self.comparisons)}"
            )
        return self


class Setting(BaseModel):
    """One setting of a method: its hyper-parameters, and what the report calls it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    variant: str = Field(
        "", description="what distinguishes it from the method's other settings at the same level, in words"
    )
    level: Quantities | None = Field(None, description="its level, where that is not what the method's `level` says")
    finetune: bool = Field(
        True, description="false: the network is left as compress makes it, neither fine-tuned nor recalibrated"
    )

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All other keys."""
        return self.model_extra or {}


class Declaration(Frozen):
    """methods/NAME/config.yaml."""

    title: str
    paper: str
    family: Literal[
        "unstructured", "block", "filter", "quantization", "binary", "super_resolution", "adaptive", "distillation",
        "incremental", "dense",
    ]  # fmt: skip
    task: tuple[Literal["classification", "super_resolution", "class_incremental"], ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    starts_from: Start
    needs_teacher: bool = Field(False, description="whether it reads the dense model of the pair's teacher")
    level: Quantities = Field(
        {},
        description="kind of level -> the hyper-parameters of a setting that are its level, or numbers that hold for all "
        "settings; the first kind that a setting has is its level, and the others are words of its variant",
    )
    settings: dict[Name, Setting] = Field(min_length=1)
    instant: dict[Stage, Literal["all"] | tuple[Name, ...]] = Field(
        {},
        description="stage -> the settings in which it takes seconds on a processor: nothing is trained or synthesized",
    )
    synthesis_from: dict[Name, Name] = Field({}, description="setting -> the setting whose synthetic images it uses")
    latency_from: dict[Name, Name] = Field(
        {},
        description="setting -> the setting whose networks have the same layers, so that one latency stands for both",
    )
    network_from: dict[Name, Name] = Field(
        {},
        description="setting -> the setting whose finished network it starts from, in one stage of its own, compress; it "
        "repeats the other's hyper-parameters",
    )
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="batch sizes at which the latency stage also measures images per second, on test images"
    )
    scales: dict[Name, MethodScale] = Field({}, description="scale -> what runs there; of others the method is no part")
    package: str = Field("", exclude=True, description="filled in by discovery: methods.NAME or methods.baselines.NAME")

    @property
    def is_baseline(self) -> bool:
        return self.package.startswith("methods.baselines.")

    @property
    def is_sparse(self) -> bool:
        """Whether the result is a network of the old shape with zeros, not with fewer filters or bits."""
        return self.family in ("unstructured", "block")

    def at(self, scale: str, *lineage: str) -> MethodScale | None:
        """What the method runs at a scale; None where it is no part of it.

        At a scale that is derived from others, the nearest one first, it runs what it runs at the nearest, with the
        hyper-parameters that it names for all of them.
        """
        declared = [self.scales[name] for name in (scale, *lineage) if name in self.scales]
        if not declared:
            return None
        own = declared[0]
        for other in declared[1:]:
            own = MethodScale(
                runs=own.runs or other.runs,
                config=other.config | own.config,
                budget=other.budget | own.budget,
                recipes=other.recipes | own.recipes,
            )
        return own

    def is_instant(self, setting: str, stage: str) -> bool:
        """Whether a stage takes seconds on a processor, so that it needs neither a GPU nor hours of a cluster."""
        return any(stage == name and (own == "all" or setting in own) for name, own in self.instant.items())

    def _levels(self, setting: str) -> tuple[Level, ...]:
        own = self.settings[setting]
        return levels(self.level if own.level is None else own.level, own.hyperparameters)

    def final_stage(self, setting: str) -> Stage:
        """The stage that leaves the model to evaluate."""
        finetuned = "finetune" in self.stages and self.settings[setting].finetune and setting not in self.network_from
        return "finetune" if finetuned else "compress"

    def level_of(self, setting: str) -> Level:
        """How strongly a setting compresses: what it is compared with."""
        return next(iter(self._levels(setting)), NONE)

    def variant_of(self, setting: str) -> str:
        """What distinguishes a setting from the others at its level, in words; often nothing."""
        return variant_words(self._levels(setting), self.settings[setting].variant)

    def label_of(self, setting: str) -> str:
        """A setting in words; its name where it has neither level nor variant."""
        return words(self._levels(setting), self.settings[setting].variant) or setting

    @model_validator(mode="after")
    def _consistent(self) -> "Declaration":
        if "compress" not in self.stages:
            raise ValueError("stages must contain compress")
        known = set(self.settings)
        named = {
            **{f"instant.{s}": set(own) for s, own in self.instant.items() if own != "all"},
            "synthesis_from": {*self.synthesis_from, *self.synthesis_from.values()},
            "latency_from": {*self.latency_from, *self.latency_from.values()},
            "network_from": {*self.network_from, *self.network_from.values()},
            **{f"scales.{s}.recipes": set(m.recipes) for s, m in self.scales.items()},
            **{f"scales.{s}.runs.{name}": set(own) for s, m in self.scales.items() for name, own in m.runs.items()},
        }
        for key, names in named.items():
            if names - known:
                raise ValueError(
                    f"{key} names the unknown setting {sorted(names - known)[0]!r}; known: {', '.join(known)}"
                )
        for setting, other in self.network_from.items():
            if other in self.network_from:
                raise ValueError(f"network_from.{setting}: {other!r} starts from a finished network itself")
            own = self.settings[setting].hyperparameters
            for name, value in self.settings[other].hyperparameters.items():
                if own.get(name) != value:
                    raise ValueError(f"network_from.{setting}: {name} differs from that of {other!r}; give it the same")
        for setting in self.settings:
            try:
                self._levels(setting)
            except ValueError as error:
                raise ValueError(f"settings.{setting}: {error}") from None
        return self
