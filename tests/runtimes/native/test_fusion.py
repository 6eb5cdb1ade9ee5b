"""What a convolution absorbs."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compressbench.runtimes.native.fusion import Fused, fuse
from compressbench.runtimes.native.graph import Graph


class Two(nn.Module):
    """Two convolutions, in a forward pass of one's own."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.own = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x, self.a, self.b)


def chains(forward: Callable[..., Tensor]) -> tuple[Graph, dict[str, Fused]]:
    graph = Graph(fx.symbolic_trace(Two(forward).eval()), torch.randn(1, 4, 5, 5))
    return graph, {chain.name: chain for chain in fuse(graph)}


def test_the_later_convolution_absorbs_the_sum_and_the_activation() -> None:
    graph, found = chains(lambda x, a, b: F.relu(b(F.relu6(a(x))) + x))
    assert found["a"].clip == (0, 6) and found["a"].residual is None
    assert found["b"].clip == (0, float("inf")) and found["b"].residual is graph.input
    assert found["b"].source is found["a"].last and found["b"].last is graph.output


def test_what_is_read_twice_is_not_absorbed() -> None:
    _, found = chains(lambda x, a, b: F.relu(y := a(x)) + b(y))
    assert found["a"].clip is None and len(found["a"].absorbed) == 1


def test_nothing_follows_an_activation_and_a_sum_is_part_of_one_convolution() -> None:
    _, found = chains(lambda x, a, b: F.relu(a(x)) + b(x))
    assert found["a"].residual is None and found["b"].residual is found["a"].last
    _, found = chains(lambda x, a, b: a(x) + b(x))
    assert [chain.residual is not None for chain in found.values()].count(True) == 1


def test_a_sum_of_other_shapes_is_left_alone() -> None:
    _, found = chains(lambda x, a, b: b(a(x)) + x.mean((2, 3), keepdim=True))
    assert found["b"].residual is None
