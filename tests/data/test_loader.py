"""Reading ahead with worker processes gives what reading here gives."""

import os

import pytest
import torch

from compressbench.data.loader import Ahead, Endless, Loader
from compressbench.errors import UserError


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def refuse_three(number: int) -> int:
    if number == 3:
        raise UserError("cat.jpg is damaged; replace it.")
    return number


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_from_as_many_processes_as_asked(workers: int) -> None:
    values, processes = zip(*Loader(workers).map(square, range(7)), strict=True)
    assert values == (0, 1, 4, 9, 16, 25, 36)
    others = set(processes) - {os.getpid()}
    assert len(others) == workers


def test_training_draws_the_same_numbers_with_workers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert len(list(Loader(1).map(square, range(2)))) == 2
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_user_has_to_mend_is_one_sentence_also_from_a_worker(workers: int) -> None:
    coming = Loader(workers).map(refuse_three, Endless(2))
    assert next(coming) == 2
    with pytest.raises(UserError) as caught:
        next(coming)
    assert str(caught.value) == "cat.jpg is damaged; replace it."


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("numbers", [range(5, 12), [4, 4, 5, 5, 6], [0, 7, 3, 4, 5, 1, 2, 9]])
def test_numbers_may_be_asked_for_in_any_order(workers: int, numbers: list[int]) -> None:
    ahead = Ahead(square, Loader(workers))
    assert [ahead(number)[0] for number in numbers] == [number**2 for number in numbers]


def test_workers_read_once_numbers_follow_each_other_and_no_sooner() -> None:
    ahead = Ahead(square, Loader(1))
    processes = [ahead(number)[1] for number in (5, 9, 10, 11, 2)]
    here = os.getpid()
    assert [process == here for process in processes] == [True, True, False, False, True]
    assert processes[2] == processes[3]
