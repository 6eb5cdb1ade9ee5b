"""Training under soft uniform masks: the straight-through layer, the decay of removed weights, the mask updates."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.layers.masked import MASKED, masked, masked_layers
from compressbench.models.structure import AnyModule
from compressbench.pruning.masks import pull_removed, regrown_fraction, zero_removed
from compressbench.pruning.trained_masks import STRAIGHT_THROUGH
from compressbench.training import Hook, State
from methods.subp.criterion import Criterion, Sampler, Schedule, expand, importance, update

Gradient = Literal["soft", "hard"]
Scored = Literal["masked", "raw"]
Score = Callable[[Tensor], Tensor]


def soften(model: AnyModule, names: set[str], n: int, gradient: Gradient = "soft") -> AnyModule:
    """Put masks of ones on the named convolutions, in place; `hard` ones pass no gradient to removed weights."""
    return masked(model, names, block=n, forms=STRAIGHT_THROUGH if gradient == "soft" else MASKED)


class RemovedDecay(Hook):
    """Adds lambda (1 - m) W to the gradient, before the optimiser step: removed weights are pulled to zero."""

    def __init__(self, decay: float):
        self.decay = decay

    def on_gradients(self, state: State) -> None:
        pull_removed(state.model, self.decay)


class MaskUpdates(Hook):
    """New masks before the first step of every epoch e of the schedule: `schedule.epochs` equal parts of the run.

    scored: the scores see the weights under their present mask, so that removed blocks rank lowest, or all of them.
    draw: (e, name of the layer) -> sampler; it depends on nothing else, so that a resumed run draws the same.
    """

    def __init__(
        self,
        schedule: Schedule,
        n: int,
        draw: Callable[[int, str], Sampler],
        criterion: Criterion = "bpar",
        scored: Scored = "masked",
        alpha: float = 1.0,
        temperature: float = 1.0,
    ):
        self.schedule, self.n, self.draw = schedule, n, draw
        self.criterion, self.scored, self.alpha, self.temperature = criterion, scored, alpha, temperature

    def on_start(self, state: State) -> None:
        if state.total_steps < self.schedule.epochs:
            raise UserError(
                f"subp, key slices: the run has {state.total_steps} steps for {self.schedule.epochs} mask updates; "
                "use fewer slices or train longer."
            )

    def on_step_start(self, state: State) -> None:
        e, before = (step * self.schedule.epochs // state.total_steps for step in (state.step, state.step - 1))
        if e != before:
            masks = {name: layer.mask.clone() for name, layer in masked_layers(state.model).items()}
            self.update(state.model, e)
            after = {name: layer.mask for name, layer in masked_layers(state.model).items()}
            state.metrics["regrown"] = regrown_fraction(masks, after)
            kept = sum(int(mask.sum()) for mask in after.values())
            state.metrics["density"] = kept / sum(mask.numel() for mask in after.values())

    @torch.no_grad()
    def update(self, model: nn.Module, e: int) -> None:
        """The masks of epoch e, in place."""
        for name, layer in masked_layers(model).items():
            weight = layer.weight * layer.mask if self.scored == "masked" else layer.weight
            scores, c_in = importance(weight, self.n, self.criterion, self.alpha), weight.shape[1]
            pruned, returned = self.schedule.candidates(c_in), self.schedule.returning(c_in, e)
            kept = update(scores, pruned, returned, self.draw(e, name), self.temperature)
            layer.mask.copy_(expand(kept, weight.shape, self.n))


def export(trained: nn.Module, plain: AnyModule, n: int) -> AnyModule:
    """`plain` (the same architecture) with the trained tensors and masks, W <- m W, declared storable in 1xN blocks."""
    masked(plain, set(masked_layers(trained)), block=n).load_state_dict(trained.state_dict(), strict=True)
    zero_removed(plain)
    return plain.eval()
