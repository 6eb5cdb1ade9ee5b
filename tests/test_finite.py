"""What a network puts out must be numbers."""

import pytest
import torch
from torch import nn

from compressbench import data, models, quality
from compressbench.errors import UserError
from compressbench.finite import NotFinite, best_class, finite, title


def test_a_network_is_named_by_its_architecture() -> None:
    model = models.build("plain")
    nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(NotFinite, match="plain puts out NaN or infinity for 2 of 2"):
        quality.top1(model, data.Split(torch.rand(2, 1, 28, 28), torch.zeros(2)))
    assert title(model) == "plain" and title(nn.ReLU()) == "ReLU"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2, 2)])
def test_inputs_that_have_other_values_are_counted_once(shape: tuple[int, ...], value: float) -> None:
    values = torch.ones(shape)
    assert finite(values, "it") is values
    values[1] = value
    values[3].view(-1)[-1] = value
    with pytest.raises(NotFinite, match="it puts out NaN or infinity for 2 of 4 inputs"):
        finite(values, "it")


def test_the_best_class_is_that_of_numbers_only() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [-1.0, -3.0, -2.0]])
    assert best_class(logits, "it").tolist() == [1, 0]
    with pytest.raises(UserError, match="train it again with a lower learning rate"):
        best_class(logits.masked_fill(logits == -3, float("nan")), "it")
