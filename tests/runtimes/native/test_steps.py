"""Tests of the steps of a forward pass: what runs as one, in which form, and from which values."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.kernels import native
from compressbench.runtimes.native import forms, steps
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace

X = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """relu(b(relu(a(x))) + x), scaled by the mean of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.b(self.relu(self.a(x))) + x).mul(x.mean())


def planned(model: nn.Module) -> tuple[Graph, list[steps.Step]]:
    graph = Graph(trace(model.eval()), X)
    return graph, steps.fastest_steps(graph, fuse(graph), {})


def test_a_step_for_every_convolution_with_what_it_absorbs_and_for_every_other_operation() -> None:
    graph, found = planned(Residual())
    assert [step.node.name for step in found] == ["relu", "relu_1", "mean", "mul"]
    assert [bool(step.form) for step in found] == [True, True, False, False]
    assert found[1].inputs == [found[0].node, graph.input]


def test_steps_in_order_compute_the_network() -> None:
    torch.manual_seed(0)
    graph, found = planned(model := Residual())
    values = {graph.input: X}
    with torch.no_grad():
        for step in found:
            values[step.node] = step.compute([values[node] for node in step.inputs])
        torch.testing.assert_close(values[graph.output], model(X), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_only_a_layer_on_our_kernels_has_fixed_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for ours in (False, True):
        monkeypatch.setattr(
            forms, "fastest", lambda calls, ours=ours, **_: next(n for n in calls if (n == "dense blocks") is ours)
        )
        _, found = planned(nn.Sequential(nn.Conv2d(4, 8, 3)))
        assert (found[0].planned is not None) is ours and bool(found[0].tile) is ours
        assert (found[0].form == "dense blocks") is ours
