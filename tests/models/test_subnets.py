"""How structures become layers: channels, costs, blocks."""

import pytest
import torch

from compressbench import models
from compressbench.errors import UserError
from compressbench.models.mobilenet import round_channels
from compressbench.models.subnets import Layout, Subnet, as_tensors, rounded_channels
from tests.contexts.supernet import layout, space


def test_channels_are_multiples_of_eight_and_lose_less_than_ten_percent() -> None:
    values = torch.tensor([7, 11.9, 12, 18, 20, 28, 31.2, 45.1], dtype=torch.float64)
    assert rounded_channels(values).tolist() == [8, 16, 16, 24, 24, 32, 32, 48]
    many = torch.arange(8, 2000, 0.1, dtype=torch.float64)
    assert (rounded_channels(many) >= 0.9 * many).all()
    assert rounded_channels(many)[::97].tolist() == [round_channels(v) for v in many[::97].tolist()]


def test_the_desk_network_has_the_macs_of_its_specification() -> None:
    assert space().layout.macs(*as_tensors([space().largest, space().smallest])).tolist() == [643_808, 98_640]


def test_the_ninth_multiplier_of_v2_changes_nothing() -> None:
    v2 = layout("mobilenet_v2")
    one, other = Subnet(192, (0.9,) * 8 + (0.75,)), Subnet(192, (0.9,) * 8 + (1.0,))
    assert v2.stages == 9 and v2.channels(one) == v2.channels(other)
    assert v2.macs(*as_tensors([one]))[0] == v2.macs(*as_tensors([other]))[0]


def test_a_network_without_switchable_widths_is_refused() -> None:
    with pytest.raises(UserError, match="has no switchable widths"):
        Layout(models.build("plain", in_channels=1))
