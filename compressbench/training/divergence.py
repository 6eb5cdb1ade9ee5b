"""Detects a network that has collapsed to chance, as opposed to one that learns slowly."""

import math
from collections.abc import Callable, Sequence

from compressbench.errors import UserError

PATIENCE = 2  # epochs of the recipe
STANDARD_ERRORS = 3


def chance_alarm(
    classes: int, images: int, warmup_epochs: float, slices: float = 1, metric: str = "validation_top1"
) -> Callable[[Sequence[dict[str, float]]], None]:
    """An alarm for `fit`: UserError after PATIENCE epochs at chance, one behind the other, since the warm-up.

    At chance is an accuracy (in %, on `images` images) of at most 3 standard errors above 1 / classes. The warm-up's
    epochs do not count, nor does the first epoch without one. Where a method cuts an epoch into `slices` of its own, each
    with a row of history, as many make an epoch: a mask that has just changed may leave a network at chance for a while.
    Fewer images than half the classes tell nothing.
    """
    chance = 1 / classes
    highest = 100 * (chance + STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / images))
    first, patience = math.ceil(max(1, warmup_epochs) * slices), math.ceil(PATIENCE * slices)

    def alarm(history: Sequence[dict[str, float]]) -> None:
        values = [row[metric] for row in history if row["epoch"] >= first and metric in row][-patience:]
        if 2 * images >= classes and len(values) == patience and max(values) <= highest:
            raise UserError(
                f"training collapsed: the accuracy is {values[-1]:.1f} %, chance, for {patience} epochs (epoch "
                f"{history[-1]['epoch']:.0f}, loss {history[-1]['loss']:.4f}); lower the learning rate or the strength of "
                "the compression."
            )

    return alarm
