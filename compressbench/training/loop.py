"""The training loop. It does not depend on methods: a method adds a hook, a loss or a parameter group."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.structure import AnyModule
from compressbench.seeding import derive_seed
from compressbench.training.checkpoint import Checkpoint
from compressbench.training.hooks import Hook, State
from compressbench.training.passes import Passes, whole

Loss = Callable[[nn.Module, Any], Tensor]


class Logger(Protocol):
    """Where the metrics of every epoch go."""

    def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None: ...


def fit(
    model: AnyModule,
    batches: Callable[[int], Any],
    loss: Callable[[AnyModule, Any], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    epochs: int,
    steps_per_epoch: int | Fraction,
    seed: int,
    hooks: Sequence[Hook] = (),
    validate: Callable[[AnyModule], dict[str, float]] | None = None,
    alarm: Callable[[Sequence[dict[str, float]]], None] | None = None,
    checkpoint: Checkpoint | None = None,
    logger: Logger | None = None,
    train_mode: bool = True,
    passes: Passes = whole,
) -> AnyModule:
    """Train `model` in place and return it, in eval mode.

    Args:
        batches: step -> batch, a pure function of the step, so that a run can resume anywhere.
        loss: (model, batch) -> scalar.
        optimizers: all step in every iteration.
        steps_per_epoch: Fraction(steps, epochs) where `epochs` does not divide the steps of the run: none is left out,
            and epochs differ by one step at most.
        seed: seeds the global generator at the start of every epoch (dropout and the like).
        validate: called at the end of every epoch, model in eval mode; its values are logged.
        alarm: called after every epoch with the history so far; raises UserError to stop a hopeless run.
        checkpoint: where to resume from and to save to: at every epoch's end, and as often as it says itself.
        train_mode: False leaves the model in eval mode (frozen batch-norm statistics).
        passes: the forward and backward passes of a step: over the whole batch, or over parts of it.

    Raises:
        UserError: when the mean loss of an epoch is not finite.
    """
    state = State(model, optimizers, epochs, steps_per_epoch)
    done, history = checkpoint.restore(state, hooks) if checkpoint else (0, [])
    if logger:
        for row in history:
            logger.epoch(int(row["epoch"]), epochs, {k: v for k, v in row.items() if k != "epoch"})
    state.epoch = done
    _call(hooks, "on_start", state)
    for state.epoch in range(done, epochs):
        steps = _begin(state, hooks, seed, train_mode, checkpoint)
        for state.step in steps:
            state.total = state.total + _step(state, batches, partial(loss, model), hooks, passes).detach()
            if checkpoint:
                checkpoint.after_step(state, history, hooks)
        mean = state.total.item() / (state.step + 1 - state.first_step(state.epoch))
        if not math.isfinite(mean):
            raise UserError(f"training diverged: the loss of epoch {state.epoch} is {mean}; lower the learning rate.")
        rate = optimizers[0].param_groups[0]["lr"]
        state.metrics = {"loss": mean, "lr": rate, "steps": state.step + 1} | state.metrics
        _call(hooks, "on_epoch_end", state)
        if validate:
            state.metrics |= validate(model.eval())
        history.append({"epoch": state.epoch} | state.metrics)
        if logger:
            logger.epoch(state.epoch, epochs, state.metrics)
        if alarm:
            alarm(history)
        if checkpoint:
            checkpoint.save(state, history, hooks)
    return model.eval()


def _begin(state: State, hooks: Sequence[Hook], seed: int, train_mode: bool, checkpoint: Checkpoint | None) -> range:
    """The start of an epoch; returns its steps.

    Of an epoch that was killed it returns those that are left: then what the others made takes the place of all tensors.
    """
    first, end = state.first_step(state.epoch), state.first_step(state.epoch + 1)
    killed, state.step = state.step > first, first
    torch.manual_seed(derive_seed(seed, "epoch", state.epoch))
    state.model.train(train_mode)
    state.metrics, state.total = {}, torch.zeros(())
    _call(hooks, "on_epoch_start", state)
    if killed and checkpoint:
        checkpoint.restore(state, hooks)
    return range(state.step, end)


def _step(
    state: State, batches: Callable[[int], Any], loss: Callable[[Any], Tensor], hooks: Sequence[Hook], passes: Passes
) -> Tensor:
    """One step; the loss before it."""
    state.batch = batches(state.step)
    _call(hooks, "on_step_start", state)
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    state.loss = passes(state, loss)
    _call(hooks, "on_gradients", state)
    for optimizer in state.optimizers:
        optimizer.step()
    _call(hooks, "on_step_end", state)
    return state.loss


def _call(hooks: Sequence[Hook], point: str, state: State) -> None:
    for hook in hooks:
        getattr(hook, point)(state)
