"""Batch-norm statistics, recomputed."""

import torch
from torch import nn

from compressbench.training.batchnorm_statistics import recompute_statistics


def test_recomputed_statistics_are_the_plain_average_over_the_batches() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.running_mean.fill_(9)  # type: ignore[union-attr]
    batches = [torch.randn(8, 3, 4, 4) + i for i in range(3)]
    recompute_statistics(norm.eval(), batches)
    assert torch.allclose(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0), atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(norm.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0), atol=1e-6)  # type: ignore[arg-type]
    assert not norm.training
    assert norm.momentum == 0.1


def test_later_norms_see_what_earlier_ones_make_of_the_batch() -> None:
    """Each batch comes out of the first norm with mean 0 and variance v / (v + ε), whatever it was."""
    model = nn.Sequential(nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2))
    batches = [10 * torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(i)) + 7 for i in range(3)]
    recompute_statistics(model.eval(), batches)
    biased = torch.stack([b.var((0, 2, 3), correction=0) for b in batches])
    torch.testing.assert_close(model[1].running_mean, torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(model[1].running_var, (biased / (biased + 1e-5) * 150 / 149).mean(0))


def test_modes_momenta_and_gradients_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.3), nn.Dropout()).train()
    model[1].eval()
    assert recompute_statistics(model, [torch.randn(5, 3)]) is model
    assert [m.training for m in model] == [True, False, True] and model[1].momentum == 0.3
    assert not model[1].running_mean.requires_grad and all(p.grad is None for p in model.parameters())
