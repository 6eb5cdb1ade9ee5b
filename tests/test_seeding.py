"""Seeds that depend on every part, and the deterministic mode."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressbench.seeding import derive_seed, generator, make_deterministic, random_state, set_random_state


def test_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    assert derive_seed(0, "compress", "noise") == derive_seed(0, "compress", "noise")
    assert len({derive_seed(a, b) for a in range(5) for b in ("x", "y")}) == 10


@settings(deadline=None)
@given(st.lists(st.integers() | st.text("ab", max_size=4), max_size=4))
def test_a_seed_is_one_that_every_generator_takes(parts: list[int | str]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert generator(*parts).initial_seed() == torch.Generator().manual_seed(seed).initial_seed() == seed


def test_seeds_spread_over_all_their_bits() -> None:
    seeds = torch.tensor([derive_seed("spread", i) for i in range(2000)])
    shares = torch.stack([(seeds >> bit & 1).double().mean() for bit in range(63)])
    assert (shares - 0.5).abs().max() < 5 * 0.5 / 2000**0.5  # five standard errors


def test_generators_of_two_purposes_are_independent_of_torchs_own() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, other = (torch.randn(1000, generator=generator(0, purpose)) for purpose in ("noise", "order"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.15


def test_what_is_not_deterministic_is_an_error() -> None:
    make_deterministic(threads=1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    values = torch.zeros(3)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        values.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False)


def test_gpus_compute_deterministically(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    make_deterministic(threads=1)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8"), "what cuBLAS documents as deterministic"
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


def test_random_numbers_go_on_from_a_state() -> None:
    state = random_state()
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first) and not torch.equal(torch.rand(3), first)
