"""Images per second of the training itself."""

import time
from collections.abc import Callable

import torch

from compressbench.training.distributed import processes
from compressbench.training.hooks import Hook, State


class Throughput(Hook):
    """Reports at the end of every epoch how many images were trained on in a second, in all processes together.

    Validation does not count. Of an epoch that was killed, what was trained since then counts.
    """

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report = report

    def on_epoch_start(self, state: State) -> None:
        self.images, self.began = 0, _now()

    def on_step_end(self, state: State) -> None:
        self.images += len(state.batch[0])

    def on_epoch_end(self, state: State) -> None:
        self.report(processes() * self.images / (_now() - self.began))


def _now() -> float:
    """Seconds, once the GPU has done what it was asked for."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
