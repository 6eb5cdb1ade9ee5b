"""Divergence of softened logits, attention maps and normalised distances against their definitions, in float64."""

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.data.classification import Split
from compressbench.training.distillation import (
    attention,
    attention_loss,
    distillation_loss,
    forward_with_taps,
    normalised_mse,
    peer_accuracies,
    peer_logits,
    softened_divergence,
    unit_norm,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_divergence_has_the_numbers_of_its_definition() -> None:
    student, teacher = torch.tensor([[2.0, 0, -1]]).double(), torch.tensor([[3.0, 1, -2]]).double()
    assert softened_divergence(student, teacher).item() == pytest.approx(0.0252013, abs=5e-8)
    assert 16 * softened_divergence(student, teacher, 4).item() == pytest.approx(0.2877215, abs=5e-7)
    p, q = (torch.softmax(z / 4, 1) for z in (student, teacher))
    assert softened_divergence(student, teacher, 4).item() == pytest.approx((q * (q / p).log()).sum().item(), abs=1e-15)


def test_divergence_ignores_a_constant_and_vanishes_with_its_gradient() -> None:
    student = randn(4, 7).requires_grad_()
    value = softened_divergence(student, student.detach() + 3, 2)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-14) and student.grad.abs().max() < 1e-14  # type: ignore[union-attr]


def test_gradient_with_the_factor_of_the_temperature() -> None:
    student, teacher = randn(4, 7).requires_grad_(), randn(4, 7, seed=1)
    (4 * softened_divergence(student, teacher, 2)).backward()
    expected = 4 * (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1)) / (2 * len(student))
    torch.testing.assert_close(student.grad, expected, rtol=0, atol=1e-14)


def test_distillation_loss_adds_the_labels() -> None:
    student, teacher, labels = randn(4, 7), randn(4, 7, seed=1), torch.tensor([0, 3, 6, 1])
    expected = nn.functional.cross_entropy(student, labels) + 5 * 9 * softened_divergence(student, teacher, 3)
    torch.testing.assert_close(distillation_loss(student, teacher, labels, 3, 5), expected, rtol=0, atol=1e-13)


def test_attention_is_the_mean_of_squares_over_channels() -> None:
    f = randn(2, 5, 3, 4)
    expected = [[sum(f[b, c, i, j] ** 2 for c in range(5)) / 5 for i in range(3) for j in range(4)] for b in range(2)]
    torch.testing.assert_close(attention(f), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_normalised_distance_ignores_positive_scales_and_is_bounded() -> None:
    x, y = randn(3, 4, 5, 5), randn(3, 4, 5, 5, seed=1)
    assert normalised_mse(x, x).item() == 0
    torch.testing.assert_close(normalised_mse(2 * x, 0.3 * y), normalised_mse(x, y), rtol=1e-13, atol=0)
    expected = sum(((a / a.norm() - b / b.norm()) ** 2).mean() for a, b in zip(x, y, strict=True)) / 3
    torch.testing.assert_close(normalised_mse(x, y), expected, rtol=1e-13, atol=0)
    assert normalised_mse(x, -x).item() == pytest.approx(4 / 100)
    assert normalised_mse(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


@pytest.mark.parametrize(("positions", "bound"), [(64, 0.03125), (1024, 0.00195), (16 * 1024, 0.000122)])
def test_maps_that_are_never_negative_are_at_most_2_over_p_apart(positions: int, bound: float) -> None:
    x = torch.zeros(1, positions).double()
    x[0, 0] = 1
    assert normalised_mse(x, x.roll(1, 1)).item() == pytest.approx(2 / positions) == pytest.approx(bound, rel=2e-3)


def test_gradient_is_orthogonal_to_the_map() -> None:
    x, y = randn(3, 4, 5, 5).requires_grad_(), randn(3, 4, 5, 5, seed=1)
    normalised_mse(x, y).backward()
    assert (x.grad * x).flatten(1).sum(1).abs().max() < 1e-15  # type: ignore[operator]


def test_attention_loss_looks_at_the_square_only() -> None:
    features = randn(3, 5, 4, 4)
    torch.testing.assert_close(unit_norm(attention(features)).norm(dim=1), torch.ones(3).double())
    assert attention_loss(features, -2.5 * features).item() == pytest.approx(0, abs=1e-30)
    assert attention_loss(features, features).item() == 0
    assert attention_loss(features, randn(3, 5, 4, 4, seed=1)).item() > 0


def test_taps_leave_the_network_as_it_was() -> None:
    network = models.build("resnet_cifar", blocks=[1, 1, 1]).eval()
    images = torch.randn(2, 3, 16, 16)
    logits, maps = forward_with_taps(network, images)
    assert torch.equal(logits, network(images))
    assert [tuple(f.shape[1:]) for f in maps] == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert torch.equal(maps[0], network.stages[0](network.stem(images)))
    assert not any(module._forward_hooks for module in network.modules())


def test_accuracies_of_peers_and_of_their_mean() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    right = nn.functional.one_hot(labels, 3).float()
    wrong = right.roll(1, 1)
    half = torch.cat([right[:2], wrong[2:]])
    model = nn.Module()
    model.predictions = lambda images: {"leader": wrong} | peer_logits([3 * right, half])  # type: ignore[assignment]
    assert peer_accuracies(model, Split(torch.zeros(4, 1), labels)) == {
        "leader": 0, "student0": 100, "student1": 50, "ensemble": 100, "students": 75,
    }  # fmt: skip
