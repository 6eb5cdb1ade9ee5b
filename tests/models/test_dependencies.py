"""The dependency graph names the same channels as the suite's own descriptions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import models
from compressbench.models import Coupling
from compressbench.models.dependencies import find_couplings
from tests.models.test_structure import RUNNABLE

LARGE = ("efficientnet_lite0", "mobilenet_v3_large", "resnet34", "vgg_imagenet")
CASES = RUNNABLE | {name: ({}, (3, 32, 32)) for name in LARGE}


def found_in(model: nn.Module, *shape: int) -> dict[str, Coupling]:
    """Convolution -> the coupling in which it writes."""
    found = find_couplings(model, torch.zeros(2, *shape, device=next(model.parameters()).device))
    return {name: coupling for coupling in found for name, _ in coupling.outputs}


def test_every_architecture_with_free_widths_is_compared() -> None:
    with torch.device("meta"):
        named = {name for name in models.ARCHITECTURES if models.build(name).couplings()}
    assert named == {case.split()[0] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_the_graph_finds_what_the_suite_describes(case: str) -> None:
    arguments, shape = CASES[case]
    with torch.device("meta"):
        model = models.build(case.split()[0], **arguments)
    found = found_in(model, *shape)
    described = [coupling for coupling in model.couplings() if not coupling.padded]
    assert described, "a zero-padded shortcut fixes the order of its channels, which the graph cannot say"
    for own in described:
        other = found[own.producer]
        assert set(other.outputs) == set(own.outputs)
        assert set(other.consumers) == set(own.consumers)
        assert (other.offset, other.pixels, other.gates) == (own.offset, own.pixels, own.gates)
        assert (other.group is None) == (own.group is None)
        if own.group is None:
            assert (other.producer, other.norm, other.activation) == (own.producer, own.norm, own.activation)


class Small(nn.Module):
    """Two convolutions around what a test is about, and a classifier."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x, **parts: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.parts = nn.ModuleDict(parts)
        self.classifier = nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.first(x))
        for part in self.parts.values():
            x = part(x)
        return self.classifier(self.second(x).mean((2, 3)))


def test_channels_through_functions_are_free() -> None:
    assert found_in(Small(lambda x: F.max_pool2d(F.relu(x), 2)), 1, 8, 8).keys() == {"first", "second"}


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.PReLU(4)])
def test_channels_that_no_coupling_can_express_are_not_free(norm: nn.Module) -> None:
    assert found_in(Small(norm=norm), 1, 8, 8).keys() == {"second"}


def test_a_normalisation_of_a_sum_belongs_to_no_convolution() -> None:
    class Sum(Small):
        def forward(self, x: Tensor) -> Tensor:
            first = self.first(x)
            return self.classifier(self.parts["norm"](first + self.second(first)).mean((2, 3)))

    assert found_in(Sum(norm=nn.BatchNorm2d(4)), 1, 8, 8) == {}


def test_the_classes_are_outputs_and_stay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert found_in(network, 1, 8, 8).keys() == {"0"}


def test_the_pixels_of_a_flattened_map_move_together() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 2))
    (coupling,) = find_couplings(network, torch.zeros(2, 1, 6, 6))
    assert (coupling.producer, coupling.consumers, coupling.pixels) == ("0", ("3",), 9)
