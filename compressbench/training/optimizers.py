"""Optimisers and learning-rate schedules from a recipe."""

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from compressbench.config import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """SGD or Adam as the recipe says; `parameters` are tensors or parameter groups (whose own options win)."""
    groups = list(parameters)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )


def adamw(recipe: Recipe, model: nn.Module) -> torch.optim.AdamW:
    """AdamW with the recipe's rate and decay, as transformers are trained: vectors and class tokens do not decay."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    for name, parameter in model.named_parameters():
        groups[parameter.dim() > 1 and not name.endswith("class_token")].append(parameter)
    plain, decaying = groups
    return torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": decaying, "weight_decay": recipe.weight_decay}],
        lr=recipe.lr,
    )


def schedule_factor(recipe: Recipe, epochs: int, steps_per_epoch: int | Fraction) -> Callable[[int], float]:
    """step -> factor of the initial learning rate: what `recipe.schedule` says, after a linear warm-up.

    A cosine by epoch is 1/2 (1 + cos(pi (e - w) / (E - w))) for E epochs, w of them warm-up, in every epoch e: the warm-up
    multiplies it by its share, as in the authors' code of 1xN, CLR-RNF and DCFF. Other schedules begin after the warm-up.
    """
    total, warmup = epochs * steps_per_epoch, round(recipe.warmup_epochs * steps_per_epoch)

    def cosine(step: int | Fraction) -> float:
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def factor(step: int) -> float:
        ramp = (step + 1) / warmup if step < warmup else 1.0
        if recipe.schedule == "cosine_by_epoch":
            return ramp * cosine(step // steps_per_epoch * steps_per_epoch)
        if step < warmup or recipe.schedule == "constant":
            return ramp
        if recipe.schedule == "halve":
            return 0.5 ** (step // steps_per_epoch // (recipe.halve_every or 1))
        if recipe.schedule == "step":
            return 0.1 ** sum(step // steps_per_epoch >= epoch for epoch in recipe.milestones)
        return cosine(step)

    return factor


def stepwise_cosine(epochs: int, steps_per_epoch: int, warmup: int) -> Callable[[int], float]:
    """step -> factor that changes with epochs only, as a scheduler called once per epoch has it.

    (e + 1) / w in the w epochs of warm-up, whose last one is the first of the cosine,
    1/2 (1 + cos(pi (e - w + 1) / (E - w + 1))); without warm-up 1/2 (1 + cos(pi e / E)).
    """
    skipped = max(warmup - 1, 0)

    def factor(step: int) -> float:
        epoch = step // steps_per_epoch
        if epoch < warmup:
            return (epoch + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (epoch - skipped) / (epochs - skipped)))

    return factor
