"""The entry to all architectures: names, arguments, and the description that is stored."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from compressbench import models
from compressbench.errors import UserError
from tests.conftest import run_python


def test_the_same_seed_builds_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(models.build("resnet_cifar").state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_spec_survives_json() -> None:
    spec = models.build("plain", widths=[4, 4, 4, 4, 4]).spec
    assert models.ModelSpec(**json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_every_architecture_builds_without_memory(architecture: str) -> None:
    with torch.device("meta"):
        model = models.build(architecture)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("architecture, arguments, message", [
    ("alexnet", {}, "unknown architecture"),
    ("plain", {"depth": 3}, "no argument depth"),
    ("plain", {"widths": [8]}, "1 widths but 5 strides"),
    ("plain", {"inner_widths": {"conv1": 8}}, "conv1"),
    ("edsr", {"scale": 5}, "scale must be 2, 3 or 4"),
    ("resnet_cifar", {"shortcut": "none"}, "'pad' or 'conv'"),
    ("resnet_cifar", {"classifier": "mlp"}, "'conv' or 'linear'"),
    ("vgg", {"depth": 11}, "depth"),
    ("wide_resnet", {"depth": 18}, "6n"),
    ("densenet", {"depth": 41}, "3n"),
    ("mobilenet_v2", {"variant": "x"}, "variant"),
])  # fmt: skip
def test_bad_arguments_are_named(architecture: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build(architecture, **arguments)


MINE = """
from torch import nn

from compressbench.models.structure import Classifier


class Mine(Classifier):
    def __init__(self, in_channels: int = 3, classes: int = 10):
        super().__init__()
        self.body = nn.Conv2d(in_channels, 4, 3)
        self.classifier = nn.Linear(4, classes)

    def forward(self, x):
        return self.classifier(self.body(x).mean((2, 3)))


ARCHITECTURES = {"mine": Mine}
"""
BUILD = """
import torch
from compressbench import models

print(tuple(models.build("mine", classes=3)(torch.zeros(2, 3, 8, 8)).shape))
"""


def test_a_module_in_the_folder_is_an_architecture(library: Path) -> None:
    (library / "compressbench/models/mine.py").write_text(MINE, encoding="utf-8")
    assert run_python(library, "-c", BUILD) == "(2, 3)\n"
