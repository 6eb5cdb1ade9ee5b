"""Taking channels out of tensors and modules."""

import pytest
import torch
from torch import nn

from compressbench.models import Coupling
from compressbench.models.channels import cut, select


def numbered(rows: int, columns: int) -> torch.Tensor:
    return torch.arange(rows * columns).reshape(rows, columns)


def test_columns_between_the_free_ones_stay() -> None:
    state = {"a.weight": numbered(2, 1), "b.weight": numbered(2, 1), "reader.weight": numbered(1, 5)}
    free = [Coupling("a", None, ("reader",), offset=3), Coupling("b", None, ("reader",), offset=0)]
    taken = select(state, free, {"a": torch.tensor([1])})
    assert taken["reader.weight"].tolist() == [[0, 1, 2, 4]]
    taken = select(state, free, {"a": torch.tensor([1, 0]), "b": torch.tensor([1])})
    assert taken["reader.weight"].tolist() == [[1, 2, 4, 3]]


def test_the_pixels_of_a_channel_move_together() -> None:
    state = {"a.weight": numbered(3, 1), "reader.weight": numbered(1, 6)}
    taken = select(state, [Coupling("a", None, ("reader",), pixels=2)], {"a": torch.tensor([2, 0])})
    assert taken["a.weight"].flatten().tolist() == [2, 0]
    assert taken["reader.weight"].tolist() == [[4, 5, 0, 1]]


def test_an_order_that_is_not_free_is_refused() -> None:
    with pytest.raises(ValueError, match="the order of a's channels is not free"):
        select({"a.weight": numbered(2, 1)}, [Coupling("a", None, (), padded=True)], {"a": torch.tensor([0])})


def test_modules_say_the_sizes_that_they_have() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 2, 1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    free = [Coupling("0", "1", ("3",), followers=(("2", None),)), Coupling("3", None, ("5",), pixels=4)]
    smaller = cut(network, free, {"0": torch.tensor([1, 3]), "3": torch.tensor([1])})
    assert {type(m) for m in smaller} == {nn.Conv2d, nn.BatchNorm2d, nn.Linear} and len(smaller) == 5
    described = [str(network[i]).replace(" ", "") for i in (0, 1, 2, 3, 5)]
    assert "Conv2d(3,2," in described[0] and "BatchNorm2d(2," in described[1]
    assert "Conv2d(2,2," in described[2] and "groups=2" in described[2]
    assert "Conv2d(2,1," in described[3] and "in_features=4" in described[4]
    assert network.eval()(torch.randn(1, 3, 6, 6)).shape == (1, 5)
