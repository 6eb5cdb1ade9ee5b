"""The training loop, its hooks, schedules, optimisers and checkpoints."""

from compressbench.training.averaging import WeightAverage
from compressbench.training.divergence import chance_alarm
from compressbench.training.hooks import Hook, LearningRate, State
from compressbench.training.loop import fit
from compressbench.training.optimizers import adamw, make_optimizer, schedule_factor, stepwise_cosine

__all__ = [
    "Hook",
    "LearningRate",
    "State",
    "WeightAverage",
    "adamw",
    "chance_alarm",
    "fit",
    "make_optimizer",
    "schedule_factor",
    "stepwise_cosine",
]
