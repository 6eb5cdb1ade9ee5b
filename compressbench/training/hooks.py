"""The interface of hooks, and the hook that every run has: the learning rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass
class State:
    """The running training, shared by the loop and its hooks.

    Attributes:
        model: the network in training.
        optimizers: all of them step in every iteration.
        epochs, steps_per_epoch: the length of the run; a fraction where `epochs` does not divide the steps, see `fit`.
        epoch, step: where it is; `step` counts over the whole run, from 0.
        batch: the current batch, as the batch source returned it.
        loss: the current loss (scalar tensor).
        total: the sum of the losses of this epoch so far (scalar tensor).
        metrics: what is logged at the end of this epoch; hooks may add to it.
    """

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    epochs: int
    steps_per_epoch: int | Fraction
    epoch: int = 0
    step: int = 0
    batch: Any = None
    loss: Tensor | None = None
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        return self.first_step(self.epochs)

    def first_step(self, epoch: int) -> int:
        """The first step of an epoch: step s belongs to epoch floor(s / steps_per_epoch)."""
        return math.ceil(epoch * self.steps_per_epoch)


class Hook:
    """Called by the loop at fixed points.

    A killed run resumes at a checkpoint, in the middle of an epoch where the recipe has `checkpoint_steps`. What a hook does
    may depend on `state.epoch`, `state.step`, on tensors in the model's and the optimisers' states, and on the attributes that
    it names in `kept`: all of these are as they were. In the middle of an epoch `on_epoch_start` is called before they come
    back, so that it may set other attributes of the model or of itself that follow from the epoch alone.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    """Attributes that a checkpoint has: nested dicts and lists of tensors and numbers."""

    def on_start(self, state: State) -> None:
        """Once, before the first (or first resumed) epoch."""

    def on_epoch_start(self, state: State) -> None:
        """Before the first batch of every epoch."""

    def on_step_start(self, state: State) -> None:
        """Before the forward pass; `state.batch` is set."""

    def on_gradients(self, state: State) -> None:
        """After the backward pass, before the optimiser step."""

    def on_step_end(self, state: State) -> None:
        """After the optimiser step."""

    def on_epoch_end(self, state: State) -> None:
        """After the last batch of every epoch, before logging."""


class LearningRate(Hook):
    """Sets every parameter group to `factor(step)` times its initial rate, before every step."""

    def __init__(self, factor: Callable[[int], float]):
        self.factor = factor

    def on_step_start(self, state: State) -> None:
        factor = self.factor(state.step)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
