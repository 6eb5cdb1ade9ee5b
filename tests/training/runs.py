"""A small classifier, its batches and its loss, and a hook that kills a run."""

import torch
import torch.nn.functional as F
from torch import nn

from compressbench.seeding import generator
from compressbench.training import Hook, State


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = generator("batch", step)
    return torch.randn(16, 6, generator=random), torch.randint(0, 3, (16,), generator=random)


def cross_entropy(model: nn.Module, pair: tuple) -> torch.Tensor:
    return F.cross_entropy(model(pair[0]), pair[1])


class Kill(Hook):
    """At the end of the first step of an epoch, or of a step of the run."""

    def __init__(self, epoch: int | None = None, step: int | None = None):
        self.epoch, self.step = epoch, step

    def on_step_end(self, state: State) -> None:
        if self.epoch == state.epoch or self.step == state.step:
            raise KeyboardInterrupt
