"""What a hook sees: where a run is, and the learning rate that every run has."""

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressbench.training import LearningRate, State


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 300))
def test_every_step_belongs_to_the_epoch_that_its_share_of_the_run_says(epochs: int, more: int) -> None:
    steps = epochs + more
    own = State(nn.Identity(), [], epochs, Fraction(steps, epochs))
    firsts = [own.first_step(epoch) for epoch in range(epochs + 1)]
    assert firsts[0] == 0 and firsts[-1] == own.total_steps == steps
    for epoch in range(epochs):
        assert {step * epochs // steps for step in range(firsts[epoch], firsts[epoch + 1])} == {epoch}


def test_every_group_gets_its_own_initial_rate_times_the_factor_of_the_step() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    sgd = torch.optim.SGD([{"params": weights[:1], "lr": 0.5}, {"params": weights[1:2]}], lr=0.1)
    adam = torch.optim.Adam(weights[2:], lr=0.01)
    hook = LearningRate(lambda step: 1 / (1 + step))
    for step in (0, 3, 1):
        hook.on_step_start(State(nn.Identity(), [sgd, adam], 1, 4, step=step))
        rates = [group["lr"] for optimizer in (sgd, adam) for group in optimizer.param_groups]
        assert rates == [0.5 / (1 + step), 0.1 / (1 + step), 0.01 / (1 + step)]


def test_a_rate_goes_on_from_the_initial_one_after_a_resume() -> None:
    """The initial rate is part of the optimiser's state, which a checkpoint stores."""
    parameter, hook = nn.Parameter(torch.zeros(1)), LearningRate(lambda step: 0.5**step)
    first, second = (torch.optim.SGD([parameter], lr=0.8) for _ in range(2))
    hook.on_step_start(State(nn.Identity(), [first], 1, 4, step=2))
    second.load_state_dict(first.state_dict())
    hook.on_step_start(State(nn.Identity(), [second], 1, 4, step=3))
    assert second.param_groups[0]["lr"] == 0.1
