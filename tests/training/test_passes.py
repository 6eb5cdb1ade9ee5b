"""Parts of a batch: the mean over them, one start for all of them, and what remains of what they write."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.training import State
from compressbench.training.passes import Divided, passes, whole
from tests.training.runs import batch


def state_of(model: nn.Module) -> State:
    """At a step on 16 rows of 6 numbers."""
    return State(model, [torch.optim.SGD(model.parameters(), lr=0.1)], 1, 1, batch=batch(0))


def loss_of(model: nn.Module) -> Callable[[Any], Tensor]:
    return lambda pair: F.cross_entropy(model(pair[0]), pair[1])


def network(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *between, nn.Linear(8, 3))


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_loss_and_gradients_are_those_of_the_whole_batch(parts: int) -> None:
    one, other = network(nn.ReLU()), network(nn.ReLU())
    expected = whole(state_of(one), loss_of(one))
    value = Divided(parts, 1)(state_of(other), loss_of(other))
    torch.testing.assert_close(value, expected.detach())
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_running_statistics_are_the_mean_over_parts_with_one_start() -> None:
    model, images = network(nn.BatchNorm1d(8, momentum=0.5)), batch(0)[0]
    inner = model[0](images).detach().chunk(2)
    Divided(2, 1)(state_of(model), loss_of(model))
    norm = model[1]
    torch.testing.assert_close(norm.running_mean, 0.5 * (inner[0].mean(0) + inner[1].mean(0)) / 2)
    torch.testing.assert_close(norm.running_var, 0.5 + 0.5 * (inner[0].var(0) + inner[1].var(0)) / 2)
    assert norm.num_batches_tracked == 1


class Writes(nn.Module):
    """Halves its scale and draws a number in every forward pass; has a buffer that nobody writes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.register_buffer("constant", torch.tensor(0.1))
        self.register_buffer("lowest", torch.tensor(torch.inf))
        self.drawn: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.mul_(0.5)
            self.lowest.copy_(torch.minimum(self.lowest, x.min()))
        self.drawn.append(int(torch.randint(10**9, ())))
        return x * self.scale


def test_every_part_starts_from_the_same_network_and_the_same_random_numbers() -> None:
    writes = Writes()
    images = torch.arange(6.0).view(6, 1)
    state = State(writes, [torch.optim.SGD(writes.parameters(), lr=0.0)], 1, 1, batch=(images,))
    Divided(3, 1)(state, lambda pair: writes(pair[0]).mean())
    assert writes.scale == 4
    assert len(writes.drawn) == 3 and len(set(writes.drawn)) == 1
    assert torch.equal(writes.constant, torch.tensor(0.1)), "a third, three times, is another number"
    assert writes.lowest == 2, "the mean of 0, 2 and 4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((torch.zeros(16, 6), torch.zeros(16)), "a batch of 16 cannot be divided into 3 equal parts"),
        ((torch.zeros(15, 6), torch.zeros(14)), "has a row for every image"),
        ((torch.zeros(15, 6), None), "has a row for every image"),
        ((torch.zeros(15, 6), torch.zeros(())), "has a row for every image"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_named(content: tuple[Any, ...], message: str) -> None:
    model = network()
    state = State(model, [], 1, 1, batch=content)
    with pytest.raises(UserError, match=message):
        Divided(3, 1)(state, loss_of(model))


def test_one_part_is_one_pass() -> None:
    assert passes(1) is whole
    assert isinstance(passes(2), Divided)
