"""BNN: latent weights in [-1, 1] without weight decay; signs are stored."""

from pathlib import Path

import pytest

from compressbench.layers.binary import OneBitConv2d, binary_layers
from compressbench.training import State
from methods.baselines.bnn.method import BNN, ClipLatent
from tests.contexts import full_size_context
from tests.contexts.binary import binary_network, make_binary_context


def test_latent_weights_return_to_the_interval_after_every_step() -> None:
    model = binary_network()
    layers = binary_layers(model).values()
    for layer in layers:
        layer.weight.data.mul_(100)
    ClipLatent().on_step_end(State(model, [], epochs=1, steps_per_epoch=1))
    assert all(layer.weight.abs().max() == 1 for layer in layers)


def test_it_stores_signs_without_scales(data_root: Path, tmp_path: Path) -> None:
    ctx = make_binary_context(data_root, tmp_path, epochs=2)
    layers = binary_layers(BNN(BNN.Config()).compress(ctx)).values()
    assert len(layers) == 4
    assert all(type(m) is OneBitConv2d and not m.scaled and (m.weight.abs() == 1).all() for m in layers)


@pytest.mark.parametrize(("pair", "convolutions"), [("cifar10/binary_vgg_small", 5), ("imagenet/binary_resnet18", 16)])
def test_one_iteration_at_full_size(pair: str, convolutions: int, tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, pair, "bnn", "w1a1")
    assert len(binary_layers(BNN(BNN.Config()).compress(ctx))) == convolutions
