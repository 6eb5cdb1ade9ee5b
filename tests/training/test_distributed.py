"""Two processes: sums, shares of a batch, and what they have to agree on."""

from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from compressbench.errors import UserError
from compressbench.stages.launch import launch
from compressbench.training import State
from compressbench.training.distributed import (
    Agreement,
    Batches,
    add_up,
    checksum,
    parts_of,
    processes,
    rank,
    share,
    shared,
)


def test_a_process_alone_has_the_whole_batch() -> None:
    batch = (torch.arange(4), None)
    assert (processes(), rank()) == (1, 0) and share(batch) is batch and shared(made) is made


def test_parts_are_in_the_order_of_the_rows_and_keep_the_memory_format() -> None:
    images = torch.arange(4 * 3 * 2 * 2).view(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    first, second = parts_of((images, torch.arange(4)), 2)
    assert torch.equal(torch.cat([first[0], second[0]]), images) and second[1].tolist() == [2, 3]
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in (first[0], second[0]))


def test_a_checksum_sees_every_bit() -> None:
    numbers = torch.tensor([1.0, 0.0, -2.5])
    assert checksum(numbers) != checksum(torch.tensor([1.0, -0.0, -2.5]))
    assert checksum(numbers) != checksum(torch.nextafter(numbers, torch.tensor(9.0)))
    for tensor in (torch.tensor([True, False]), numbers.double(), numbers.bfloat16(), torch.zeros(0)):
        assert checksum(tensor) == checksum(tensor.clone())


def made(step: int) -> tuple[torch.Tensor]:
    return (torch.arange(step, step + 4),)


class Divisible:
    """Batches that are never made as a whole."""

    batch_size = 4

    def __call__(self, step: int) -> tuple[torch.Tensor]:
        raise AssertionError

    def rows(self, rows: slice) -> Batches:
        return lambda step: (torch.arange(10 + step, 14 + step)[rows],)


def work(folder: Path) -> None:
    """In one of two processes."""
    number = 1 + distributed.get_rank()
    images = torch.full((2, 3, 2, 2), float(number)).contiguous(memory_format=torch.channels_last)
    tensors = [torch.tensor([number]), images, torch.tensor([0.5 * number]).double(), torch.tensor([number])]
    add_up(tensors)
    rows = [share((torch.arange(6),))[0].tolist()]
    rows += [shared(batches)(7)[0].tolist() for batches in (made, Divisible())]
    torch.save([*tensors, rows], folder / f"{number}.pt")
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.bias.fill_(float(number))
    Agreement().on_epoch_end(State(model, [], 9, 1, epoch=4))


def test_tensors_add_up_and_a_disagreement_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disagree on bias in epoch 4"):
        launch(2, torch.device("cpu"), work, tmp_path)
    (*first, rows), (*second, others) = (torch.load(tmp_path / f"{number}.pt") for number in (1, 2))
    expected = [torch.tensor([3]), torch.full((2, 3, 2, 2), 3.0), torch.tensor([1.5]).double(), torch.tensor([3])]
    for found in (first, second):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))
    assert rows == [[0, 1, 2], [7, 8], [17, 18]] and others == [[3, 4, 5], [9, 10], [19, 20]]
