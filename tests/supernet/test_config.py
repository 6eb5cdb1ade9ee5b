"""Budgets: the targets of a constraint, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressbench.config import parse
from compressbench.errors import UserError
from compressbench.supernet.config import Constraint, SupernetConfig
from tests.contexts.supernet import SMALL


def test_targets_round_to_even_multiples() -> None:
    constraint = Constraint(start=110, stop=570, step=10)
    assert constraint.target(torch.tensor([125e6, 135e6, 126e6], dtype=torch.float64)).tolist() == [120, 140, 130]
    assert list(constraint.targets)[::44] == [120, 560] and len(constraint.targets) == 45
    shifted = Constraint(start=105, stop=205, step=10)
    assert shifted.target(torch.tensor([118e6, 121e6], dtype=torch.float64)).tolist() == [115, 125]


def test_a_cost_just_above_a_tie_belongs_to_the_upper_target() -> None:
    constraint = Constraint(start=110, stop=570, step=10)
    costs = torch.tensor([124_999_999, 125_000_000, 125_000_001, 134_999_999, 135_000_000, 135_000_001])
    assert constraint.target(costs).tolist() == [120, 120, 130, 130, 140, 140]


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"start": 5, "stop": 5, "step": 1}, "start must be less than stop"),
        ({"start": 5, "stop": 10, "step": 0}, "step"),
        ({"resource": "energy", "start": 5, "stop": 10, "step": 1}, "resource"),
    ],
)
def test_bad_constraints_are_refused(constraint: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(SupernetConfig, {"constraints": (constraint,)}, "config.yaml")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 400), st.sampled_from([1.0, 1e3, 1e6]), st.data())
def test_a_cost_belongs_to_the_nearest_target_of_the_constraint(
    start: int, step: int, span: int, unit: float, data: st.DataObject
) -> None:
    constraint = Constraint(start=start, stop=start + span, step=step, unit=unit)
    costs = torch.tensor(data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=20)))
    targets = constraint.target(costs)
    assert ((targets - start) % step == 0).all()
    assert ((costs.double() / unit - targets).abs() <= step / 2 * (1 + 1e-9)).all()
    assert all(start < target < start + span for target in constraint.targets)


@pytest.mark.parametrize(
    ("constraint", "name", "label"),
    [
        ({}, "m120", "120 MMACs"),
        ({"unit": 1e3}, "m120", "120 kMACs"),
        ({"unit": 500}, "m120", "60000 MACs"),
        ({"resource": "latency", "unit": 1}, "us120", "120 µs"),
        ({"resource": "latency", "unit": 10}, "us120", "1200 µs"),
    ],
)
def test_budgets_are_named_and_labelled(constraint: dict, name: str, label: str) -> None:
    own = Constraint(start=0, stop=200, step=10, **constraint)
    assert (own.name(120), own.label(120)) == (name, label)


@pytest.mark.parametrize("resolutions", [(8, 15), (16, 8), (0, 8)])
def test_resolutions_are_ascending_multiples_of_their_step(resolutions: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="resolutions must be"):
        parse(SupernetConfig, SMALL | {"resolutions": resolutions}, "test")


def test_budgets_in_latency_are_of_one_device() -> None:
    latency = [
        {"resource": "latency", "unit": 1, "start": 0, "stop": 9, "step": 1, "device": d} for d in ("cpu", "gpu")
    ]
    assert parse(SupernetConfig, SMALL, "test").timed_devices == set()
    assert parse(SupernetConfig, SMALL | {"constraints": (latency[1],)}, "test").timed_devices == {"gpu"}
    with pytest.raises(UserError, match="must be of one device"):
        parse(SupernetConfig, SMALL | {"constraints": latency}, "test")
