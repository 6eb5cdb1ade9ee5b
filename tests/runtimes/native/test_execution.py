"""Tests of running the steps: again and again on the image where it lies, and without keeping values."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.kernels import native
from compressbench.runtimes.native.execution import Execution
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace
from compressbench.runtimes.native.steps import Step, fastest_steps


def execution(model: nn.Module, x: Tensor) -> tuple[Execution, list[Step]]:
    graph = Graph(trace(model.eval()), x)
    steps = fastest_steps(graph, fuse(graph), {})
    return Execution(graph, steps, x), steps


def test_every_pass_reads_the_image_where_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        run = execution(model, x)[0].run
        for _ in range(2):
            x.normal_()
            torch.testing.assert_close(run(), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_neighbouring_steps_on_our_kernels_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    program = native.program

    def counted(calls: list) -> object:
        sizes.append(len(calls))
        return program(calls)

    means = nn.Sequential(*(nn.AdaptiveAvgPool2d(1) for _ in range(3)), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1))
    with torch.no_grad():
        graph = Graph(trace(means.eval()), x := torch.randn(1, 3, 4, 4))
        steps = fastest_steps(graph, fuse(graph), {})
        monkeypatch.setattr(native, "program", counted)
        run = Execution(graph, steps, x).run
        torch.testing.assert_close(run(), means(x))
    assert sizes == [3, 1]
