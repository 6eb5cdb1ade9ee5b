"""Buffers are shared by values that are never needed together."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.kernels import native
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace
from compressbench.runtimes.native.memory import Memory
from compressbench.runtimes.native.steps import fastest_steps

pytestmark = pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")


class Chain(nn.Module):
    """Global means one after the other, which run on our kernels, and a view."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(1) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for pool in self.pools:
            x = pool(x)
        return x.flatten(1)


def memory(model: nn.Module, x: Tensor) -> Memory:
    graph = Graph(trace(model), x)
    return Memory(graph, fastest_steps(graph, fuse(graph), {}), x)


def test_a_chain_needs_two_buffers_however_long_it_is() -> None:
    found = memory(Chain(6), torch.randn(1, 3, 4, 4))
    assert len(found.buffers) == 6
    assert len({buffer.data_ptr() for buffer in found.buffers.values()}) == 2


def test_a_view_of_a_buffer_is_no_step_and_keeps_it() -> None:
    found = memory(Chain(2), torch.randn(1, 3, 4, 4))
    (view,) = found.views.values()
    assert view.shape == (1, 3)
    last = list(found.buffers.values())[-1]
    assert view.data_ptr() == last.data_ptr()
