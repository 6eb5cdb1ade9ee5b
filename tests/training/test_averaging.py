"""The average of the weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench.config import Recipe
from compressbench.training import Hook, State, WeightAverage, adamw, fit
from compressbench.training.checkpoint import Checkpoint, same_bits
from tests.training.runs import Kill, batch, cross_entropy, network


def test_the_average_of_the_weights_survives_a_kill(tmp_path: Path) -> None:
    recipe, steps = Recipe(epochs=3, lr=0.05, weight_decay=0.1), []

    def train(folder: Path, *hooks: Hook) -> nn.Module:
        model = network()
        optimizer = adamw(recipe, model)
        average = WeightAverage(optimizer, 0.9)
        more = {"epochs": 3, "steps_per_epoch": 4, "seed": 0, "checkpoint": Checkpoint(folder)}
        fit(model, batch, cross_entropy, [optimizer], hooks=[average, *hooks], **more)  # type: ignore[arg-type]
        average.apply()
        return model

    class Remember(Hook):
        def on_step_end(self, state: State) -> None:
            steps.append(state.model[0].weight.detach().clone())

    whole = train(tmp_path / "whole", Remember())
    expected = steps[0]
    for weight in steps[1:]:
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(whole[0].weight, expected, atol=1e-6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Kill(1))
    assert same_bits(whole.state_dict(), train(tmp_path / "killed").state_dict())


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD], ids=["adam", "sgd"])
def test_the_average_starts_from_the_first_step_and_takes_the_place_of_the_weights(
    kind: type[torch.optim.Optimizer],
) -> None:
    """Weights that are set to 1, 2, 3 after each step: 0.9 (0.9 · 1 + 0.1 · 2) + 0.1 · 3 = 1.29.

    SGD without momentum has no state of its own.
    """
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = kind([parameter], lr=0.1)  # type: ignore[call-arg]
    average, state = WeightAverage(optimizer, 0.9), State(nn.Identity(), [optimizer], 1, 3)
    for value in (1.0, 2.0, 3.0):
        parameter.sum().backward()
        optimizer.step()
        parameter.data.fill_(value)
        average.on_step_end(state)
    assert parameter.tolist() == [3, 3]
    average.apply()
    assert parameter.tolist() == pytest.approx([1.29, 1.29])
