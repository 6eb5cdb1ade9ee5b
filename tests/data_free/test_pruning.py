"""Filters removed and weights rounded without data: counts, order of the steps, restored means."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.data_free.closed_forms import relu_moments
from compressbench.data_free.pruning import DataFreePruningConfig, kept_count, prune_and_quantize, selection
from compressbench.errors import UserError
from tests.data_free.networks import network, random


def test_counts_are_rounded_half_to_even() -> None:
    assert [kept_count(n, 0.3) for n in (16, 32, 64)] == [11, 22, 45]
    assert [kept_count(n, 0.5) for n in (5, 7)] == [3, 3]
    with pytest.raises(UserError, match="leaves none of 2"):
        kept_count(2, 0.8)


def remix(seed: int):  # type: ignore[no-untyped-def]
    return lambda layer, norm, kept, rounded: random(len(kept), len(layer.weight), seed=seed)


def test_the_next_layer_reads_the_mixture() -> None:
    """V' on n channels is V on the N channels sum_i S[i, j] X_i: for a convolution and for the classifier."""
    model = network("plain", widths=(8, 6), strides=(1, 1))
    readers = {name: model.get_submodule(name) for name in ("body.1.conv", "classifier")}
    originals = {name: (layer.weight.clone(), layer.bias) for name, layer in readers.items()}
    kept: list[Tensor] = []

    def rebuild(layer: nn.Conv2d, norm: nn.Module, index: Tensor, rounded: Tensor) -> Tensor:
        kept.append(index)
        return random(len(index), len(layer.weight), seed=len(kept))

    config = DataFreePruningConfig(ratio=0.3, bits=32, mean_restoration=False)
    narrow = prune_and_quantize(model, config, rebuild)
    inputs = {}
    for name in readers:
        narrow.get_submodule(name).register_forward_pre_hook(lambda m, x, name=name: inputs.__setitem__(name, x[0]))
    narrow(random(3, 1, 10, 10))
    assert [len(index) for index in kept] == [6, 4]
    for step, (name, (weight, bias)) in enumerate(originals.items()):
        mixing = random(len(kept[step]), weight.shape[1], seed=step + 1)
        whole = torch.einsum("ij,bi...->bj...", mixing, inputs[name])
        if name == "classifier":
            expected, found = nn.functional.linear(whole, weight, bias), narrow.classifier(inputs[name])
        else:
            chosen = weight[kept[1]]  # the filters of this layer that stay
            expected = nn.functional.conv2d(whole, chosen, padding=1)
            found = narrow.get_submodule(name)(inputs[name])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_scores_come_from_the_trained_filters() -> None:
    """However the first pair changes the second layer, the second layer loses the filters that were smallest before."""
    expected = network("plain", widths=(8, 6), strides=(1, 1)).get_submodule("body.1.conv").weight
    smallest = set(expected.flatten(1).norm(dim=1).argsort()[:2].tolist())
    chosen: list[Tensor] = []

    def rebuild(layer: nn.Conv2d, norm: nn.Module, kept: Tensor, rounded: Tensor) -> Tensor:
        chosen.append(kept)
        return selection(len(layer.weight), kept) * torch.arange(len(layer.weight))

    model = network("plain", widths=(8, 6), strides=(1, 1))
    prune_and_quantize(model, DataFreePruningConfig(ratio=0.3), rebuild)
    assert set(range(6)) - set(chosen[1].tolist()) == smallest
    assert chosen[0].tolist() == sorted(chosen[0].tolist())


def test_mean_restoration_undoes_the_shift_of_the_classifier() -> None:
    """With a mixture of nothing all channels are gone: the classifier says what it says to the means."""
    model = network("plain", widths=(6,), strides=(1,))
    norm, weight, bias = model.body[0].bn, model.classifier.weight.clone(), model.classifier.bias.clone()
    means, _ = relu_moments(norm.bias.detach(), norm.weight.detach().abs())
    config = DataFreePruningConfig(ratio=0.5, bits=32)
    narrow = prune_and_quantize(model, config, lambda layer, norm, kept, _: 0 * selection(len(layer.weight), kept))
    torch.testing.assert_close(narrow(random(1, 1, 8, 8))[0], weight @ means + bias)


def test_a_classifier_without_bias_cannot_be_restored() -> None:
    model = network("plain", widths=(4,), strides=(1,), classifier="conv")
    with pytest.raises(UserError, match="neither batch norm nor bias"):
        prune_and_quantize(model, DataFreePruningConfig(), remix(0))


@pytest.mark.parametrize(
    "options",
    [{"ratio": 1.0}, {"ratio": -0.1}, {"bits": 1}, {"bits": 33}, {"bits": 32, "activation_bits": 8}, {"scores": "l3"}],
)
def test_wrong_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(reversed(options))):
        DataFreePruningConfig(**options)
