"""Which layers run together: those of which nothing else reads what lies between."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.kernels import native
from compressbench.runtimes.native import forms, pairs
from compressbench.runtimes.native.execution import Execution
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace
from compressbench.runtimes.native.steps import Step, fastest_steps

pytestmark = pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")


class Inverted(nn.Module):
    """Expansion, depthwise, projection; `between` reads what the expansion wrote once more."""

    def __init__(self, between: bool, stride: int = 1) -> None:
        super().__init__()
        self.expand, self.project = nn.Conv2d(8, 16, 1, stride), nn.Conv2d(16, 8, 1)
        self.depthwise, self.between = nn.Conv2d(16, 16, 3, padding=1, groups=16), between

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.relu(self.expand(x))
        y = self.depthwise(wide)
        return self.project(y + wide if self.between else y)


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernels, and pairs, are always the fastest."""
    monkeypatch.setattr(forms, "fastest", lambda calls, **_: list(calls)[-1])
    monkeypatch.setattr(pairs, "fastest", lambda calls, **_: next(iter(calls)))


def planned(model: nn.Module, x: Tensor) -> tuple[Graph, list[Step]]:
    graph = Graph(trace(model.eval()), x)
    return graph, fastest_steps(graph, fuse(graph), {})


@pytest.mark.parametrize(("between", "stride", "count"), [(False, 1, 1), (True, 1, 0), (False, 2, 0)])
def test_a_depthwise_convolution_joins_the_pointwise_one_that_only_it_reads(between, stride: int, count: int) -> None:
    torch.manual_seed(0)
    model, x = Inverted(between, stride), torch.randn(1, 8, 9, 9)
    with torch.no_grad():
        graph, steps = planned(model, x)
        assert len(pairs.expanded_pairs(steps, graph.output)) == count
        run = Execution(graph, steps, x).run
        for _ in range(2):
            torch.testing.assert_close(run(), model(x), rtol=1e-4, atol=1e-5)


def test_a_slower_pair_stays_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "fastest", lambda calls, **_: list(calls)[-1])
    with torch.no_grad():
        graph, steps = planned(Inverted(False), torch.randn(1, 8, 9, 9))
        assert not pairs.expanded_pairs(steps, graph.output)
