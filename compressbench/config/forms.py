"""The forms of config/*.yaml and of every method's config.yaml, as validated, frozen, typed models.

This module imports neither torch nor a method: the DAG reads it thousands of times.
"""

from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressbench.config.levels import NONE, Level, Quantities, levels, variant_words, words

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
PairName = Annotated[str, Field(pattern=r"^[a-z0-9_]+/[a-z0-9_]+$", description="dataset/model")]
Stage = Literal["synthesize", "compress", "finetune"]
Start = Literal["scratch", "dense"]


class Frozen(BaseModel):
    """Immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodConfig(Frozen):
    """Base of a method's hyper-parameters; the defaults are the paper's."""


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
    augmentation: Literal["none", "flip", "crop_flip"] = "none"
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
    scratch: Recipe = Field(description="the total budget, for methods that train from random weights")
    pretrain: Recipe = Field(description="the shared dense model, for methods that compress a trained one")
    finetune: Recipe = Field(description="what those methods may train after it")

    def workload(self, *recipes: str) -> Workload:
        """The pair with the named recipes only."""
        return Workload(
            **{name: getattr(self, name) for name in ("architecture", "arguments", "data", "images", "patch", *recipes)}
        )


class Latency(Frozen):
    """How the latency stage measures."""

    rounds: int = Field(50, ge=30, description="interleaved rounds of the dense and the compressed model")
    warmup: int = Field(5, ge=1)
    runtimes: tuple[str, ...] = ("torch_eager", "onnxruntime")
    seeds: int = Field(
        1, ge=1, description="measure the models of the first so many seeds: latency hardly depends on them"
    )


class Scale(Frozen):
    """config/{scale}.yaml: which pairs are for which comparisons, with which budgets and seeds."""

    seeds: tuple[int, ...] = Field(min_length=1)
    report_seeds: tuple[int, ...] = Field(
        (), description="the seeds that reports/ is about: only a run of exactly these, with all methods, rewrites it"
    )
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    latency: Latency = Field(default_factory=lambda: Latency.model_validate({}))
    comparisons: dict[Name, tuple[PairName, ...]] = Field(
        description="what is compared -> on which pairs; methods name the comparisons that they take part in"
    )
    pairs: dict[PairName, Pair]

    @model_validator(mode="after")
    def _consistent(self) -> "Scale":
        for comparison, pairs in self.comparisons.items():
            for pair in pairs:
                if pair not in self.pairs:
                    raise ValueError(
                        f"comparisons.{comparison} names the unknown pair {pair!r}; known: {', '.join(self.pairs)}"
                    )
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

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All other keys."""
        return self.model_extra or {}


class MethodScale(Frozen):
    """What a method runs at one scale."""

    runs: dict[str, tuple[Name, ...]] = Field(description="comparison -> settings")
    config: dict[str, Any] = Field({}, description="hyper-parameters that differ from the paper's at this scale")
    recipes: dict[Name, dict[Literal["scratch", "finetune"], dict[str, Any]]] = Field(
        {}, description="setting -> recipe -> what the paper trains otherwise than the pair says"
    )


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
    synthesis_from: dict[Name, Name] = Field({}, description="setting -> the setting whose synthetic images it uses")
    latency_from: dict[Name, Name] = Field(
        {},
        description="setting -> the setting whose networks have the same layers, so that one latency stands for both",
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

    def _levels(self, setting: str) -> tuple[Level, ...]:
        own = self.settings[setting]
        return levels(self.level if own.level is None else own.level, own.hyperparameters)

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
            "synthesis_from": {*self.synthesis_from, *self.synthesis_from.values()},
            "latency_from": {*self.latency_from, *self.latency_from.values()},
            **{f"scales.{s}.recipes": set(m.recipes) for s, m in self.scales.items()},
            **{f"scales.{s}.runs.{name}": set(own) for s, m in self.scales.items() for name, own in m.runs.items()},
        }
        for key, names in named.items():
            if names - known:
                raise ValueError(
                    f"{key} names the unknown setting {sorted(names - known)[0]!r}; known: {', '.join(known)}"
                )
        for setting in self.settings:
            try:
                self._levels(setting)
            except ValueError as error:
                raise ValueError(f"settings.{setting}: {error}") from None
        return self
