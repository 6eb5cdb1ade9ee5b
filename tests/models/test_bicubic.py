"""Bicubic enlargement as a network without parameters."""

import pytest
import torch

from compressbench import models
from compressbench.accounting import account


@pytest.fixture
def model() -> torch.nn.Module:
    return models.build("bicubic").eval()


def test_phases_of_twofold_enlargement_have_keys_weights(model: torch.nn.Module) -> None:
    """An impulse of 100 on 100: the response is 100 (1 + the product of two taps), rounded."""
    taps = torch.tensor([-0.0234375, -0.0703125, 0.2265625, 0.8671875, 0.8671875, 0.2265625, -0.0703125, -0.0234375])
    low = torch.full((1, 3, 9, 9), 100.0)
    low[:, :, 4, 4] = 200.0
    expected = (100 + 100 * torch.outer(taps, taps)).round()
    torch.testing.assert_close(model(low)[0, 0, 5:13, 5:13], expected)


def test_a_constant_image_stays_constant_and_a_ramp_a_ramp(model: torch.nn.Module) -> None:
    assert torch.equal(model(torch.full((1, 3, 5, 5), 77.0)), torch.full((1, 3, 10, 10), 77.0))
    ramp = (16 * torch.arange(12.0)).expand(1, 3, 12, 12)
    row = model(ramp)[0, 0, 8]
    assert row[4:-4].diff().unique().tolist() == [8.0]


def test_results_are_whole_grey_levels(model: torch.nn.Module) -> None:
    result = model(torch.rand(1, 3, 8, 8) * 300 - 20)
    assert torch.equal(result, result.round().clamp(0, 255))


def test_costs_can_be_counted(model: torch.nn.Module) -> None:
    counted = account(model, (1, 3, 8, 8))
    assert (counted.params, counted.macs, counted.stored_bytes) == (0, 0, 0)
