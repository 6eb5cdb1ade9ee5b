"""Structures: uniform ones, and those of a given budget."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from compressbench.errors import UserError
from compressbench.models.subnets import Subnet, as_tensors
from compressbench.supernet import space as space_module
from compressbench.supernet.config import Constraint
from compressbench.supernet.space import Sampler, Space
from tests.contexts.supernet import layout, sampler, space


def test_uniform_structures_reach_the_targets_that_were_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    for name, start, stop, reached in (("mobilenet_v1", 110, 570, (120, 510)), ("mobilenet_v2", 70, 300, (80, 290))):
        own = layout(name)
        drawn = Space(own, 128, 224, 8, 0.75).sample(100_000, generator)
        constraint = Constraint(start=start, stop=stop, step=10)
        counts = Counter(constraint.target(own.macs(*drawn)).tolist())
        hit = [target for target in constraint.targets if counts[target]]
        assert abs(hit[0] - reached[0]) <= 10 and abs(hit[-1] - reached[1]) <= 10
        assert set(drawn[0].unique().tolist()) == set(range(128, 225, 8))
        assert 0.4 < (drawn[0] == 128).sum() / (drawn[0] == 136).sum() < 0.6
    assert not any(counts[t] for t in range(520, 561, 10))


def test_conditional_structures_have_the_target_and_the_tables_frequencies() -> None:
    own = sampler()
    budget = own.budgets[4]
    generator = torch.Generator().manual_seed(1)
    drawn = [own.draw(budget, generator) for _ in range(200)]
    costs = own.costs["macs"](*as_tensors(drawn))
    assert (budget.constraint.target(costs) == budget.target).all()
    assert len(set(drawn)) > 190
    shares = Counter(s.resolution for s in drawn)
    table = own.tables[budget][0]
    assert abs(shares[24] / 200 - (table == 24).double().mean()) < 0.25


def test_uniform_structures_are_uniform_in_three_decimals_and_independent() -> None:
    chosen = space()
    resolutions, widths = chosen.sample(20_000, torch.Generator().manual_seed(0))
    assert (resolutions.shape, widths.shape, widths.dtype) == ((20_000,), (20_000, 5), torch.float64)
    assert torch.equal((widths * 1000).round() / 1000, widths) and widths.min() >= 0.5 and widths.max() <= 1
    error = 4 / 20_000**0.5  # four standard errors
    assert ((widths.mean(0) - 0.75).abs() < error * (0.5**2 / 12) ** 0.5).all()
    assert ((widths.var(0) - 0.5**2 / 12).abs() < error * 0.5**2 / 12).all()
    correlation = torch.corrcoef(torch.cat([resolutions[None].double(), widths.T]))
    assert (correlation - torch.eye(6)).abs().max() < error
    shares = torch.stack([(resolutions == side).double().mean() for side in (20, 24, 28)])
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.25]).double(), atol=error, rtol=0)


def test_the_ends_of_a_space_are_its_corners() -> None:
    assert space().smallest == Subnet(20, (0.5,) * 5) and space().largest == Subnet(28, (1.0,) * 5)


def by_resolution(samples: int = 300) -> Sampler:
    """Whose structures cost their resolution: the multipliers do not matter."""
    chosen = Space(SimpleNamespace(stages=2), 8, 16, 4, 0.5)  # type: ignore[arg-type]
    constraint = Constraint(start=0, stop=20, step=4, unit=1)
    costs = {"macs": lambda resolutions, widths: resolutions}
    return Sampler(chosen, [constraint], costs, samples, torch.Generator().manual_seed(0))


def test_every_coordinate_is_drawn_on_its_own_from_the_structures_of_the_target() -> None:
    own, generator = by_resolution(), torch.Generator().manual_seed(1)
    assert [budget.target for budget in own.budgets] == [8, 12, 16], "4 is a target that nothing has"
    budget = own.budgets[1]
    resolutions, widths = own.tables[budget]
    drawn = [own.draw(budget, generator) for _ in range(400)]
    assert {subnet.resolution for subnet in drawn} == {12} == set(resolutions.tolist())
    for stage in range(2):
        values = [subnet.widths[stage] for subnet in drawn]
        assert set(values) <= set(widths[:, stage].tolist())
        error = 4 * widths[:, stage].std().item() / 400**0.5
        assert sum(values) / 400 == pytest.approx(widths[:, stage].mean().item(), abs=error)
    known = set(map(tuple, widths.tolist()))
    assert sum(subnet.widths in known for subnet in drawn) < 40, "the combinations are new"


def test_a_target_that_draws_do_not_meet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = by_resolution()
    own.costs["macs"] = lambda resolutions, widths: torch.zeros(len(resolutions))  # type: ignore[index]
    monkeypatch.setattr(space_module, "ATTEMPTS", 128)
    with pytest.raises(UserError, match="no structure with 8 MACs in 128 draws; use wider steps"):
        own.draw(own.budgets[0])
