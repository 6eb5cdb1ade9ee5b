"""SNIP (Lee et al. 2019): one gradient at initialisation says which connections matter."""

from copy import deepcopy

import torch
from pydantic import Field
from torch import Tensor, nn

from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.pruning.config import PruningConfig, record_densities
from compressbench.pruning.masks import apply_masks, prunable, ranked_masks
from compressbench.training.loop import Loss


def connection_gradients(
    model: nn.Module, names: list[str], batch: tuple[Tensor, Tensor], loss: Loss
) -> dict[str, Tensor]:
    """g = dL/dc at c = 1, with c multiplying every weight: W * dL/dW. Leaves the model and its statistics alone."""
    probe = deepcopy(model).train()
    weights = {name: probe.get_parameter(f"{name}.weight") for name in names}
    gradients = torch.autograd.grad(loss(probe, batch), list(weights.values()))
    return {name: (w * g).detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}


def saliencies(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """s = |g| / sum |g|, over all layers together."""
    total = torch.stack([g.abs().sum() for g in gradients.values()]).sum()
    return {name: g.abs() / total for name, g in gradients.items()}


def balanced_sample(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices of `count` random images, as equally many of every class as possible."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = torch.bincount(labels)
    rank_in_class = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    return by_class[rank_in_class.argsort(stable=True)[:count]]


class Snip(Method):
    """Prunes the random initialisation once, then trains it with fixed masks."""

    class Config(PruningConfig):
        """How much, and measured on how many images."""

        images: int = Field(512, ge=128, description="training images of the gradient, balanced over the classes")

    config: Config

    def compress(self, ctx: Context) -> Network:
        recipe, config, model = ctx.recipes.scratch, self.config, ctx.build()
        train = ctx.data.train
        chosen = balanced_sample(train.labels, config.images, ctx.generator("images"))
        batch = (train.images_at(chosen).to(ctx.device), train.labels[chosen].to(ctx.device))
        names = list(prunable(model, config.keep_first, config.keep_last))
        scores = saliencies(connection_gradients(model, names, batch, ctx.loss(recipe)))
        apply_masks(model, ranked_masks(scores, config.sparsity, config.scope))
        record_densities(ctx, model)
        return ctx.fit(model, recipe)
