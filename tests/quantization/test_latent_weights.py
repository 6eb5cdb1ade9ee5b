"""The laws that latent weights follow: quantiles, entropy, alignment of bits with magnitudes, histograms."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Laplace

from compressbench.layers.binary import SignConv2d
from compressbench.quantization.latent_weights import (
    BINS,
    alignment,
    before_and_after,
    best_share,
    bit_entropy,
    describe_latent,
    laplace_quantile,
    laplace_scale,
)


@pytest.mark.parametrize(("tau", "expected"), [(0.85, 2.40795), (0.90, 3.21888), (0.95, 4.60517), (0.99, 7.82405)])
def test_quantiles_of_a_laplace_law_of_scale_2(tau: float, expected: float) -> None:
    assert laplace_quantile(torch.tensor(2.0, dtype=torch.float64), tau).item() == pytest.approx(expected, abs=5e-6)
    assert laplace_quantile(torch.tensor(2.0), 1.0).item() == math.inf


@pytest.mark.parametrize(
    ("tau", "laplace", "gaussian"),
    [(0.85, 0.30, 0.3367), (0.90, 0.20, 0.1991), (0.95, 0.10, 0.0662), (0.99, 0.02, 0.0018)],
)
def test_how_much_of_a_law_lies_beyond_the_quantile(tau: float, laplace: float, gaussian: float) -> None:
    torch.manual_seed(0)
    for sample, share in ((Laplace(0.0, 2.0).sample((400_000,)), laplace), (torch.randn(400_000), gaussian)):
        beyond = sample.abs() > laplace_quantile(laplace_scale(sample), tau)
        assert beyond.float().mean().item() == pytest.approx(share, abs=3e-3)


@pytest.mark.parametrize(("tau", "error", "tolerance"), [(0.85, 0.188, 0.002), (0.99, 0.843, 0.005)])
def test_quantisation_error_of_clamped_laplace_weights(tau: float, error: float, tolerance: float) -> None:
    torch.manual_seed(0)
    q = laplace_quantile(torch.tensor(1.0), tau)
    clamped = Laplace(0.0, 1.0).sample((4_000_000,)).clamp(-q, q)
    measured = (clamped - clamped.abs().mean() * clamped.sign()).square().mean().item()
    cut = 2 * (1 - tau)
    assert measured == pytest.approx(error, abs=tolerance)
    assert measured == pytest.approx(1 + 2 * cut * math.log(cut) - cut**2, abs=tolerance)


def test_entropy_is_one_bit_where_half_of_them_are_set() -> None:
    assert bit_entropy(torch.tensor([True, False])) == 1
    assert bit_entropy(torch.ones(3) > 0) == 0
    assert bit_entropy(torch.rand(10_000) < math.exp(-1)) == pytest.approx(0.949, abs=0.02)


def test_the_best_support_is_found_without_trying_all() -> None:
    torch.manual_seed(0)
    for n in (1, 2, 5, 9, 12):
        for weight in torch.randn(5, n, dtype=torch.float64):
            supports = torch.tensor(list(itertools.product([0.0, 1.0], repeat=n))[1:], dtype=torch.float64)
            cosines = supports @ weight.abs() / (supports.norm(dim=1) * weight.norm())
            own = alignment(weight)
            assert own.max().item() == pytest.approx(cosines.max().item(), abs=1e-12)
            assert round(best_share(weight) * n) == int(supports[cosines.argmax()].sum())


def test_the_best_support_beats_the_sign_and_the_half() -> None:
    cosines = alignment(torch.randn(1000, 64, dtype=torch.float64))
    best = cosines.max(1).values
    assert (best >= cosines[:, -1]).all() and (best >= cosines[:, 31]).all()
    weight = torch.randn(64, dtype=torch.float64)
    sign = torch.nn.functional.cosine_similarity(weight, weight.sign(), dim=0)
    assert alignment(weight)[-1].item() == pytest.approx(sign.item(), abs=1e-12)


def laws() -> dict[str, Tensor]:
    torch.manual_seed(0)
    n = 1_000_000
    return {"laplace": Laplace(0.0, 1.0).sample((n,)), "gaussian": torch.randn(n), "uniform": torch.rand(n) - 0.5}


@pytest.mark.parametrize(
    ("law", "share", "best", "half", "sign"),
    [
        ("laplace", 1 / math.e, 0.85776, 0.84657, 0.70711),
        ("gaussian", 0.5405, 0.89990, 0.89881, 0.79788),
        ("uniform", 2 / 3, 0.94281, 0.91856, 0.86603),
    ],
)
def test_share_of_ones_and_cosines_of_three_laws(law: str, share: float, best: float, half: float, sign: float) -> None:
    sample = laws()[law].double()
    cosines = alignment(sample)
    assert best_share(sample) == pytest.approx(share, abs=0.01)
    found = [cosines.max().item(), cosines[len(sample) // 2 - 1].item(), cosines[-1].item()]
    assert found == pytest.approx([best, half, sign], abs=2e-3)


def test_histograms_count_every_weight_of_every_layer() -> None:
    layers = [SignConv2d.rebuild(nn.Conv2d(4, n, 3), {"scaling": "none"}) for n in (6, 8)]
    nn.init.constant_(layers[0].weight[0, 0, 0, 0].data, 100.0)  # beyond the range: in the last bin
    found = describe_latent(nn.Sequential(*layers))
    assert found["counts"].shape == (2, BINS)
    assert found["counts"].sum(1).tolist() == [6 * 36, 8 * 36]
    named = before_and_after(found, found)
    assert set(named) == {"counts_before", "counts_after", "best_share_before", "best_share_after", "edges"}
    assert named["edges"].shape == (BINS + 1,)


def test_laws_of_dead_layers() -> None:
    assert laplace_quantile(torch.tensor(0.0), 1.0) == torch.inf
    assert laplace_quantile(torch.tensor(0.0), 0.9) == 0
    assert 0 < best_share(torch.zeros(10)) <= 1
