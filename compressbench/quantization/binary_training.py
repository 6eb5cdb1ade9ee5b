"""Training of binary networks from random latent weights, shared by the methods of the family."""

from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.layers.binary import binary_layers, one_bit, ties
from compressbench.method import Context
from compressbench.models import ARCHITECTURES, Network
from compressbench.models.structure import AnyModule
from compressbench.quantization.latent_weights import before_and_after, describe_latent, in_tail
from compressbench.training import Hook, LearningRate, State, stepwise_cosine

TIED_IMAGES = 500  # of the validation images, on which activations without a sign are counted


class BinaryConfig(MethodConfig):
    """What the methods with a published schedule share."""

    rate: Literal["by_epoch", "recipe"] = Field(
        "by_epoch",
        description="warm-up and cosine of the authors, constant in every epoch, or the recipe's own schedule",
    )


class Flips(Hook):
    """How many weights change their sign in an epoch, in %: of all (`flips`), and of those in the tails at its start.

    Filters of equal weights have no tail; a network of nothing else flips 0 %.
    """

    kept: ClassVar[tuple[str, ...]] = ("before",)

    def on_epoch_start(self, state: State) -> None:
        layers = binary_layers(state.model)
        self.before = {name: (layer.bits(), in_tail(layer.weight)) for name, layer in layers.items()}

    def on_epoch_end(self, state: State) -> None:
        layers = binary_layers(state.model)
        changed = torch.cat([(layer.bits() != self.before[name][0]).flatten() for name, layer in layers.items()])
        tail = torch.cat([self.before[name][1].flatten() for name in layers])
        state.metrics["flips"] = 100 * changed.float().mean().item()
        state.metrics["tail_flips"] = 100 * changed[tail].float().mean().item() if tail.any() else 0.0


def check_network(network: Network) -> None:
    """UserError where an architecture has no binary form."""
    if not network.binary_convolutions():
        raise UserError(
            f"architecture {network.spec.architecture} names no convolutions to make binary; choose one that has a "
            f"binary form: {', '.join(name for name, own in ARCHITECTURES.items() if 'form' in signature(own).parameters)}."
        )


def train_binary(
    ctx: Context,
    model: AnyModule,
    *,
    groups: Iterable[Any] | None = None,
    hooks: Sequence[Hook] = (),
    rate: Literal["by_epoch", "recipe"] = "recipe",
) -> AnyModule:
    """Train a network with binary layers for the whole budget of the pair; the result holds one bit a weight.

    Records `ties`, and leaves latent.safetensors for the report. groups: of the optimiser; default all parameters alike.
    """
    recipe = ctx.recipes.scratch
    before = describe_latent(model)
    steps = ctx.steps(recipe) // recipe.epochs
    own = (
        [LearningRate(stepwise_cosine(recipe.epochs, steps, round(recipe.warmup_epochs)))] if rate == "by_epoch" else []
    )
    ctx.fit(
        model,
        recipe,
        optimizers=[ctx.optimizer(recipe, model.parameters() if groups is None else groups)],
        hooks=[*own, *hooks],
        schedule=None if own else "recipe",
    )
    ctx.save("latent", before_and_after(before, describe_latent(model)))
    ctx.record("ties", ties(model, ctx.held_out.images_at(slice(TIED_IMAGES)).to(ctx.device)))
    return one_bit(model)
