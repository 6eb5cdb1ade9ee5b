"""The argument of a method's stage functions."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressbench import data, models, quality, storage
from compressbench.config import ImageFolder, Recipe, Workload
from compressbench.data import AnySplit, DatasetInfo, Preprocessing, SyntheticImages
from compressbench.errors import UserError
from compressbench.finite import NotFinite
from compressbench.method.tasks import TASKS, Task
from compressbench.models import Network
from compressbench.models.pretrained import preprocessing
from compressbench.models.structure import AnyModule
from compressbench.seeding import derive_seed, generator
from compressbench.training import Hook, LearningRate, chance_alarm, fit, make_optimizer, schedule_factor
from compressbench.training.batchnorm_statistics import recompute_statistics
from compressbench.training.checkpoint import Checkpoint
from compressbench.training.distributed import Agreement, processes, rank, shared
from compressbench.training.forward import as_configured
from compressbench.training.layout import channels_last, gradients_like_activations
from compressbench.training.loop import Logger, Loss
from compressbench.training.passes import passes
from compressbench.training.throughput import Throughput

CALIBRATION_BATCHES = 100  # recompute batch-norm statistics; fewer where one pass over the data has fewer


class Recipes:
    """The budgets that the stage reads: from random weights, for the shared dense model, and after it."""

    scratch: Recipe
    pretrain: Recipe
    finetune: Recipe

    def __init__(self, workload: Workload):
        for name in ("scratch", "pretrain", "finetune"):
            if (recipe := getattr(workload, name)) is not None:
                setattr(self, name, recipe)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this stage does not read the recipe {name}; it has {', '.join(vars(self)) or 'none'}")


@dataclass
class Context:
    """Data, models, budgets, randomness and the shared loop of one stage of one run.

    Attributes:
        root: the project's folder. stage: the name of the stage. seed: the run's seed.
        pair, dataset: what the stage reads of the pair's configuration, and the name of its data set.
        image_folder: the data set, where it is one of the user's own. workers: processes that read image files; change no bit.
        folder: where this stage's files go.
        dense_folder, teacher_folder, finished_folder, synthetic_file: the inputs of the stage, None where it has none.
        logger: gets the metrics of every epoch.
        throughput: gets the images per second of every epoch, before the logger gets its metrics.
        checkpoints: where unfinished training is kept, if it is not there.
        records: extra results, see `record`. companions: tensors that travel with the stage's result, see `keep`.
    """

    root: Path
    stage: str
    seed: int
    pair: Workload
    dataset: str
    folder: Path
    device: torch.device
    logger: Logger | None = None
    throughput: Callable[[float], None] | None = None
    checkpoints: Path | None = None
    dense_folder: Path | None = None
    teacher_folder: Path | None = None
    finished_folder: Path | None = None
    synthetic_file: Path | None = None
    image_folder: ImageFolder | None = None
    workers: int = 0
    records: dict[str, float] = field(default_factory=dict)
    companions: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def data(self) -> Any:
        """ClassificationData, ClassIncrementalData or SuperResolutionData, loaded when first asked for."""
        return data.load(
            self.pair.data or self.dataset,
            self.root / "data",
            self.pair.images,
            self.pair.arguments.get("scale", 2),
            self.seed,
            own=self.image_folder,
            preprocessing=self.preprocessing,
            loader=data.Loader(self.workers, pin_memory=self.device.type == "cuda"),
        )

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """How the images of the pair's pretrained weights are prepared; None: as the data set says."""
        return preprocessing(self.pair.pretrained) if self.pair.pretrained else None

    @property
    def info(self) -> DatasetInfo:
        about = data.find(self.pair.data or self.dataset, self.root / "data", self.image_folder).info
        return about if self.preprocessing is None else about.adapted(self.preprocessing)

    @property
    def task(self) -> Task:
        """What depends on the kind of data."""
        return TASKS[self.info.task]

    @property
    def spec(self) -> models.ModelSpec:
        """The architecture at full size."""
        return models.ModelSpec(self.pair.architecture, dict(self.pair.arguments))

    @property
    def recipes(self) -> Recipes:
        return Recipes(self.pair)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator that depends on the seed, the stage and the purpose."""
        return generator(self.seed, self.stage, purpose)

    def record(self, name: str, value: float) -> None:
        """An extra number of this stage: goes to record.json, to MLflow and to the report.

        It follows from data, configuration and seed: a verdict compares it to the last digit. Times belong into latency.json.
        NotFinite (a UserError) for what is no finite number.
        """
        if not math.isfinite(value):
            raise NotFinite(
                f"the stage {self.stage} came to {value} for {name}, which is no result; look for what was divided by zero, "
                "or train with a lower learning rate."
            )
        self.records[name] = float(value)

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Tensors for the report: NAME.safetensors in the folder of this stage."""
        storage.save_tensors(self.folder / f"{name}.safetensors", dict(tensors))

    def build(self, spec: models.ModelSpec | None = None, *, member: int = 0, **own: Any) -> Network:
        """A freshly initialised network, the pair's unless a `spec` is given. The same seed gives the same weights in every
        method: equal starts.

        Where several networks are trained jointly, each `member` has its own weights; member 0 has those of everybody else.
        `own` are arguments of the architecture that the method sets otherwise.
        """
        spec = spec or self.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialisation", *([member] if member else [])))
            return models.build(spec.architecture, **{**spec.arguments, **own}).to(self.device)

    def dense(self) -> Network:
        """A fresh copy of the shared trained dense model, in eval mode."""
        if self.dense_folder is None:
            raise UserError(
                "this method reads a dense model but its config.yaml says starts_from: scratch; correct it there."
            )
        return storage.load_model(self.dense_folder).to(self.device)

    def teacher(self) -> Network:
        """The trained dense model of the pair's `teacher`, frozen, in eval mode."""
        if self.teacher_folder is None:
            raise UserError("this method reads a teacher but its config.yaml lacks needs_teacher: true; add it there.")
        return storage.load_model(self.teacher_folder).to(self.device).requires_grad_(False)

    def finished(self) -> Network:
        """The network of the setting that this one starts from, as that setting's last stage left it, in eval mode."""
        if self.finished_folder is None:
            raise UserError(
                "this setting starts from the finished network of another one, but its method's config.yaml does not say which "
                "under network_from; add it there."
            )
        return storage.load_model(self.finished_folder).to(self.device)

    def synthetic(self) -> SyntheticImages:
        """The images of the synthesize stage."""
        tensors = self._synthesized()
        return SyntheticImages(tensors["images"], tensors["labels"])

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """A copy of tensors that later stages need beside the result: of `synthesize` a generator's weights, say.

        What the last stage keeps goes to the task's evaluation: the predictions after every session, say.
        """
        self.companions |= {f"{name}/{key}": tensor.detach().clone() for key, tensor in tensors.items()}

    def kept(self, name: str) -> dict[str, Tensor]:
        """The tensors that the synthesize stage kept under `name`."""
        tensors = self._synthesized()
        return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}

    def _synthesized(self) -> dict[str, Tensor]:
        if self.synthetic_file is None:
            raise UserError(
                "this method reads synthetic images but its config.yaml does not list the stage synthesize; add it there."
            )
        return storage.load_tensors(self.synthetic_file)

    def batches(self, recipe: Recipe) -> Any:
        """The training batches: step -> (images, labels) or (low, high), with `steps_per_epoch`."""
        return self.task.batches(self.data, self.pair, recipe, self.seed)

    def steps(self, recipe: Recipe) -> int:
        """Optimiser steps of the whole recipe."""
        return recipe.epochs * int(recipe.steps_per_epoch or self.batches(recipe).steps_per_epoch)

    def sliced(self, recipe: Recipe, slices: int | None) -> tuple[int, Fraction]:
        """Epochs and steps per epoch for `fit`, with the recipe's budget cut into `slices`; default: its epochs.

        For schedules of published length that a run of few passes over the data has to go through. All steps of the budget
        are trained: where they do not divide by the slices, some slices have one step more than others.
        """
        epochs, steps = slices or recipe.epochs, self.steps(recipe)
        if steps < epochs:
            raise UserError(f"slices is {epochs}, more than the {steps} steps of the training; use fewer slices.")
        return epochs, Fraction(steps, epochs)

    def loss(self, recipe: Recipe) -> Loss:
        """The task's loss: cross-entropy with the recipe's label smoothing, or L1."""
        return self.task.loss(recipe)

    def optimizer(self, recipe: Recipe, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """The recipe's optimiser over tensors or parameter groups."""
        return make_optimizer(recipe, parameters)

    @property
    def held_out(self) -> AnySplit:
        """The images that `validate` looks at; none for super-resolution and where a published split leaves none."""
        return self.task.held_out(self.data)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy (%) on the validation split; nothing without one. For curves, not for model selection."""
        held_out = self.held_out
        return {"validation_top1": quality.top1(model, held_out)} if len(held_out) else {}

    def recalibrate(self, model: AnyModule, batches: int = CALIBRATION_BATCHES) -> AnyModule:
        """Recompute the batch-norm statistics of `model`, in place, on the first `batches` training batches; returns it.

        They are batches of the fine-tuning recipe, at most one pass over the data.
        """
        source = self.batches(self.recipes.finetune)
        steps = range(min(batches, source.steps_per_epoch))
        return recompute_statistics(model, (source(step)[0].to(self.device) for step in steps))

    def fit(
        self,
        model: AnyModule,
        recipe: Recipe,
        *,
        name: str = "training",
        loss: Callable[[AnyModule, Any], Tensor] | None = None,
        optimizers: Sequence[torch.optim.Optimizer] | None = None,
        hooks: Sequence[Hook] = (),
        batches: Callable[[int], Any] | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | Fraction | None = None,
        schedule: str | None = "recipe",
        validate: Callable[[AnyModule], dict[str, float]] | None = None,
        train_mode: bool = True,
    ) -> AnyModule:
        """Train `model` with the shared loop, resumable, logged and seeded; returns it in eval mode.

        What is not given comes from the recipe. `schedule=None` leaves the learning rates to the caller's hooks.
        `name` distinguishes several trainings of one stage.

        Raises:
            UserError: when the training diverges: a loss that is not finite, or an accuracy that stays at chance.
        """
        source: Any = batches or self.batches(recipe)
        rows = shared(source)
        epochs = epochs or recipe.epochs
        steps = steps_per_epoch or recipe.steps_per_epoch or source.steps_per_epoch
        rate = [LearningRate(schedule_factor(recipe, epochs, steps))] if schedule else []
        torch.manual_seed(derive_seed(self.seed, self.stage, name))
        model = channels_last(model.to(self.device))
        with (
            contextlib.nullcontext() if recipe.compile else gradients_like_activations(model)
        ):  # a compiler sees to it itself
            return fit(
                model,
                lambda step: tuple(self._on_device(part) for part in rows(step)),
                as_configured(recipe, loss or self.loss(recipe), self.device),
                optimizers or [self.optimizer(recipe, model.parameters())],
                epochs=epochs,
                steps_per_epoch=steps,
                seed=derive_seed(self.seed, self.stage, name),
                hooks=[*rate, *hooks, *self._watchers()],
                validate=validate or self.validate,
                alarm=self._alarm(recipe, epochs),
                checkpoint=Checkpoint(self._checkpoints / name, recipe.checkpoint_steps, writes=rank() == 0),
                logger=self.logger,
                train_mode=train_mode,
                passes=passes(recipe.accumulate),
            )

    def _on_device(self, part: Any) -> Any:
        return part.to(self.device) if isinstance(part, Tensor) else part

    def _watchers(self) -> list[Hook]:
        """Hooks that look at every training, and change none."""
        speed: list[Hook] = [Throughput(self.throughput)] if self.throughput else []
        return [*speed, *([Agreement()] if processes() > 1 else [])]

    @property
    def _checkpoints(self) -> Path:
        return self.checkpoints or self.folder / "checkpoints"

    def _alarm(self, recipe: Recipe, epochs: int) -> Callable[[Sequence[dict[str, float]]], None] | None:
        if not (images := len(self.held_out)):
            return None
        classes = self.task.trained_classes(self.data)
        return chance_alarm(classes, images, recipe.warmup_epochs, max(1, epochs / recipe.epochs))
