"""What a method makes of a network with random weights."""

import pytest
import torch

from compressbench.method.untrained import Applied, Unchanged, Untrained
from compressbench.models.published import PublishedNetwork
from methods.udfc.method import UDFC

SMALL = PublishedNetwork("Small", "resnet_cifar", {"blocks": (1, 1), "widths": (8, 16), "shortcut": "conv"}, 16)


def test_the_methods_own_code_compresses_the_network() -> None:
    model = Applied(UDFC, UDFC.Config.model_validate({"ratio": 0.5}))(SMALL.initialised())
    assert model.get_submodule("stages.0.0.conv1").weight.shape[0] == 4  # type: ignore[union-attr,index]
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


def test_unchanged_is_the_network_itself() -> None:
    network = SMALL.initialised()
    assert Unchanged()(network) is network


def test_there_are_no_data() -> None:
    with pytest.raises(Exception, match="unknown data set"):
        _ = Untrained(SMALL.initialised()).data
