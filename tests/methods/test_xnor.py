"""XNOR: the mean magnitude of each filter becomes its stored scale."""

from pathlib import Path

import pytest

from compressbench.compression.binary import binary_layers
from methods.baselines.xnor.method import XNOR

from .binary_context import make_binary_context


@pytest.mark.parametrize("scale_gradient", ["exact", "printed", "detached"])
def test_it_trains_with_every_gradient_and_stores_scales(scale_gradient: str, data_root: Path, tmp_path: Path) -> None:
    ctx = make_binary_context(data_root, tmp_path)
    layers = binary_layers(XNOR(XNOR.Config(scale_gradient=scale_gradient)).compress(ctx)).values()
    assert len(layers) == 4
    for layer in layers:
        scale = layer.scale()
        assert scale is not None and (scale > 0).all() and (layer.weight.abs() == 1).all()
