"""Tests of the operations of a network, with their shapes and what they change in place."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.runtimes.base import Skip
from compressbench.runtimes.native.graph import Graph, kind_of, shape_of, trace

X = torch.randn(1, 4, 6, 6)


class Shifted(nn.Module):
    """A convolution, a dropout, a sum with a parameter, and an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.dropout = nn.Conv2d(4, 8, 3), nn.Dropout()
        self.shift = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dropout(self.convolution(x)) + self.shift, inplace=True)


def test_operations_have_shapes_and_what_does_nothing_is_resolved() -> None:
    graph = Graph(trace(Shifted().eval()), X)
    assert [node.name for node in graph.operations] == ["convolution", "add", "relu"]
    convolution, add, relu = graph.operations
    (dropout,) = graph.identities
    assert graph.resolve(dropout) is convolution and graph.output is relu
    assert shape_of(add) == (1, 8, 4, 4) and kind_of(add) == (torch.Size([1, 8, 4, 4]), torch.float32)
    assert isinstance(graph.module_of(convolution), nn.Conv2d) and graph.module_of(add) is None


def test_parameters_are_constants_and_the_image_is_not() -> None:
    graph = Graph(trace(model := Shifted().eval()), X)
    (value,) = graph.constants.values()
    assert torch.equal(value, model.shift)
    assert graph.input not in graph.constants


def test_a_change_in_place_lies_between_other_operations_only() -> None:
    graph = Graph(trace(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)).eval()), X)
    first, relu, last = graph.operations
    assert graph.changed_between(first, last, ours=[])
    assert not graph.changed_between(first, last, ours=[relu])
    assert not graph.changed_between(relu, last, ours=[])


def test_a_network_that_depends_on_its_input_cannot_be_traced() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(Skip, match="cannot be traced"):
        trace(Branch())
