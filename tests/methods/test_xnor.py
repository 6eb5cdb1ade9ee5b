"""XNOR: the mean magnitude of each filter becomes its stored scale."""

from pathlib import Path

import pytest

from compressbench.layers.binary import binary_layers
from methods.baselines.xnor.method import XNOR
from tests.contexts import full_size_context
from tests.contexts.binary import make_binary_context


@pytest.mark.parametrize("scale_gradient", ["exact", "printed", "detached"])
def test_it_trains_with_every_gradient_and_stores_scales(scale_gradient: str, data_root: Path, tmp_path: Path) -> None:
    ctx = make_binary_context(data_root, tmp_path)
    layers = binary_layers(XNOR(XNOR.Config(scale_gradient=scale_gradient)).compress(ctx)).values()
    assert len(layers) == 4
    for layer in layers:
        scale = layer.scale()
        assert scale is not None and (scale > 0).all() and (layer.weight.abs() == 1).all()


@pytest.mark.parametrize(("pair", "convolutions"), [("cifar10/binary_vgg_small", 5), ("imagenet/binary_resnet18", 16)])
def test_one_iteration_at_full_size(pair: str, convolutions: int, tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, pair, "xnor", "w1a1")
    assert len(binary_layers(XNOR(XNOR.Config()).compress(ctx))) == convolutions
