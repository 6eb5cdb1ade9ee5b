"""Images per second: what they are, where they stand, and that nothing that is compared has them."""

import pytest
import torch
from torch import nn

from compressbench.training import Hook, State, fit, throughput
from compressbench.training.throughput import Throughput
from tests.training.runs import batch, cross_entropy


def test_images_of_the_steps_over_the_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 images in each of 3 steps of 2 seconds; an hour of validation does not count."""
    clock, found = [100.0], []
    monkeypatch.setattr(throughput, "_now", lambda: clock[0])

    class Slow(Hook):
        def on_step_start(self, state: State) -> None:
            clock[0] += 2

    def validate(model: nn.Module) -> dict[str, float]:
        clock[0] += 3600
        return {}

    model = nn.Linear(6, 3)
    fit(
        model, batch, cross_entropy, [torch.optim.SGD(model.parameters(), lr=0.1)], epochs=2, steps_per_epoch=3, seed=0,
        hooks=[Slow(), Throughput(found.append)], validate=validate,
    )  # fmt: skip
    assert found == [8.0, 8.0]
