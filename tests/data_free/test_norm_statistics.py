"""L_BN: inputs, biased variance, averages over layers and channels."""

import copy

import pytest
import torch
from torch import nn

from compressbench.data_free.norm_statistics import NormInputs, channel_moments


def two_layers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)
    ).double()
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    model.eval()
    with torch.no_grad():  # remember exactly the statistics of x, layer by layer
        for i in (1, 4):
            inputs = model[:i](x)
            model[i].running_mean.copy_(inputs.mean((0, 2, 3)))
            model[i].running_var.copy_(inputs.var((0, 2, 3), correction=0))
    return model, x


def test_loss_is_zero_where_inputs_reproduce_the_statistics():
    model, x = two_layers()
    with NormInputs(model) as statistics:
        model(x)
        assert statistics.loss().item() == pytest.approx(0, abs=1e-20)


def test_shifting_one_channel_mean_adds_its_square_over_layers_and_channels():
    model, x = two_layers()
    model[4].running_mean[2] += 0.3
    with NormInputs(model) as statistics:
        model(x)
        assert statistics.loss().item() == pytest.approx(0.3**2 / (2 * 5))


def test_execution_order_and_no_trace_left():
    model, x = two_layers()
    with NormInputs(model) as statistics:
        model(x)
        assert [norm for norm, _, _ in statistics.take()] == [model[1], model[4]]
        with pytest.raises(ValueError, match="forward"):
            statistics.loss()
    assert all(not m._forward_pre_hooks for m in copy.deepcopy(model).modules())


def test_model_without_batch_norm_is_refused():
    with pytest.raises(ValueError, match="no batch normalisation"):
        NormInputs(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 5)])
def test_channel_moments_and_their_gradient(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
    torch.testing.assert_close(channel_moments(x), (mean, variance))
    assert torch.autograd.gradcheck(channel_moments, x)
