"""Tests of binary convolutions on the bit-packed kernel, and of the bits that they hand over."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.layers.binary import OneBitConv2d, SignConv2d
from compressbench.runtimes.native.binary import BinaryStep, PackedLayer, hand_over_bits, pack_binary
from compressbench.runtimes.native.execution import Execution
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace
from compressbench.runtimes.native.steps import Step, fastest_steps

X = torch.randn(1, 16, 7, 7, generator=torch.Generator().manual_seed(0))


def network(**settings: object) -> nn.Sequential:
    """A binary convolution, and a batch norm with statistics of its own."""
    torch.manual_seed(1)
    layer = SignConv2d.rebuild(nn.Conv2d(16, 8, 3, padding=1, bias=False, **settings), {"scaling": "mean"})  # type: ignore[arg-type]
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(layer, norm).eval()


@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_and_norm_compute_the_layer_and_its_norm(stride: int) -> None:
    model = network(stride=stride)
    with torch.no_grad():
        expected = model(X)
        packed = pack_binary(model)
        for _ in range(2):
            torch.testing.assert_close(packed(X), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(packed[0], PackedLayer) and isinstance(packed[1], nn.Identity)


def test_a_geometry_that_the_kernel_lacks_is_left_as_it_is() -> None:
    model = network(groups=2)
    layer, norm = model
    assert list(pack_binary(model)) == [layer, norm]


def binary(inputs: int = 16, outputs: int = 16, stride: int = 1, centred: bool = False) -> OneBitConv2d:
    layer = OneBitConv2d.rebuild(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), {"scaled": True, "centred": centred}
    )
    layer.weight.data.sign_()
    layer.alpha.data.normal_(0, 0.1)
    return layer


def norm(channels: int = 16) -> nn.BatchNorm2d:
    found = nn.BatchNorm2d(channels)
    found.running_mean.normal_()
    found.running_var.uniform_(0.5, 2)
    nn.init.normal_(found.weight)
    nn.init.normal_(found.bias)
    return found


class Network(nn.Module):
    """Layers in a forward pass of one's own."""

    def __init__(self, layers: list[nn.Module], forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layers, self.own = nn.ModuleList(layers), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x, *self.layers)


def executed(layers: list[nn.Module], forward: Callable[..., Tensor]) -> list[Step]:
    """The steps of a network, whose result is right."""
    model = Network(layers, forward).eval()
    with torch.no_grad():
        expected = model(X)
        graph = Graph(trace(pack_binary(model)), X.clone())
        steps = fastest_steps(graph, fuse(graph), {})
        execution = Execution(graph, steps, X.clone())
        for _ in range(2):
            torch.testing.assert_close(execution.run(), expected, rtol=1e-4, atol=1e-4)
    return steps


def layers_of(steps: list[Step]) -> list[BinaryStep]:
    return [step.planned for step in steps if isinstance(step.planned, BinaryStep)]


built = pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")


@built
def test_sum_and_activation_are_part_of_the_step_which_leaves_signs_and_values() -> None:
    steps = executed(
        [binary(), norm(), binary(), norm(), nn.PReLU(16)],
        lambda x, a, p, b, q, act: act(q(b(y := F.relu(p(a(x)) + x))) + y),
    )
    assert len(steps) == 2
    first, second = layers_of(steps)
    assert second.reads_bits and first.layer.signs is second.layer.input and first.layer.writes
    assert not first.reads_bits and second.layer.writes and second.layer.signs is None


@built
def test_what_only_the_next_sign_reads_is_not_written() -> None:
    steps = executed([binary(), norm(), nn.Hardtanh(), binary(16, 8)], lambda x, a, p, act, b: b(act(p(a(x)))))
    first, second = layers_of(steps)
    assert second.reads_bits and not first.layer.writes and first.layer.keeps_signs


@built
def test_an_activation_that_turns_signs_is_computed_before_the_sign() -> None:
    act = nn.PReLU(16)
    act.weight.data.fill_(-1.0)
    steps = executed([binary(), norm(), act, binary(16, 8)], lambda x, a, p, act, b: b(act(p(a(x)))))
    first, second = layers_of(steps)
    assert second.reads_bits and not first.layer.writes and not first.layer.keeps_signs


@built
def test_readers_of_one_value_share_its_signs_unless_one_subtracts_the_mean() -> None:
    steps = executed([binary(), binary(), binary(centred=True)], lambda x, a, b, c: a(x) + b(x) + c(x))
    a, b, c = layers_of(steps)
    assert (a.reads_bits, b.reads_bits, c.reads_bits) == (False, True, False)
    assert a.layer.input is b.layer.input is not c.layer.input


@built
@pytest.mark.parametrize("act", [nn.Hardtanh(), nn.PReLU(16), nn.Identity()], ids=["hardtanh", "prelu", "none"])
def test_a_norm_before_the_sign_is_part_of_the_packing(act: nn.Module) -> None:
    steps = executed(
        [binary(), nn.MaxPool2d(2), norm(), act, binary(16, 8)], lambda x, a, pool, p, act, b: b(act(p(pool(a(x)))))
    )
    assert [isinstance(step.planned, BinaryStep) for step in steps] == [True, False, True]
    assert layers_of(steps)[1].layer.norm is not None


@built
@pytest.mark.parametrize(
    "act",
    [nn.ReLU6(), nn.Hardtanh(-1.0, -0.5), nn.Hardtanh(0.5, 1.0)],
    ids=["keeps", "never positive", "always positive"],
)
def test_a_norm_is_left_where_the_activation_after_it_changes_signs(act: nn.Module) -> None:
    steps = executed([nn.MaxPool2d(2), norm(), act, binary(16, 8)], lambda x, pool, p, act, b: b(act(p(pool(x)))))
    assert (layers_of(steps)[0].layer.norm is not None) is isinstance(act, nn.ReLU6)


@built
def test_a_norm_that_is_read_twice_is_left() -> None:
    steps = executed([norm(), binary()], lambda x, p, a: a(y := p(x)) + y)
    assert layers_of(steps)[0].layer.norm is None


def test_values_that_nobody_else_reads_are_found_from_inputs_and_the_output() -> None:
    """Of three layers in a row the last one's are the result."""
    planned = [BinaryStep(binary_layer) for binary_layer in (packed() for _ in range(3))]
    nodes = list("xabc")
    hand_over_bits([(nodes[i + 1], [nodes[i]], step) for i, step in enumerate(planned)], nodes[3])  # type: ignore[misc, arg-type]
    assert [step.layer.writes for step in planned] == [False, False, True]
    assert [step.reads_bits for step in planned] == [False, True, True]


def packed():
    return PackedLayer(binary(), None).planned((7, 7))
