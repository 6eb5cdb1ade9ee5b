"""Quantized networks as papers deploy them."""

import pytest
import torch

from compressbench import accounting
from compressbench.layers.binary import OneBitConv2d
from compressbench.layers.quantized import QuantConv2d, QuantizedActivation, QuantMaskedConv2d
from compressbench.models.published import NETWORKS, PublishedNetwork
from compressbench.pruning.blocks import Rows
from compressbench.pruning.deployments import RandomBlocks
from compressbench.quantization.deployments import (
    BINARY,
    INTEGER,
    OneBit,
    PostTraining,
    Quantizers,
    RoundedBlocks,
    binary_networks,
    eight_bits,
    quantizer_networks,
    rounded_block_networks,
)
from compressbench.runtimes.discovery import make_runtime
from compressbench.runtimes.integer import integer_network

SMALL = PublishedNetwork("Small", "resnet_cifar", {"blocks": (1, 1), "widths": (8, 16), "shortcut": "conv"}, 16)


@pytest.mark.parametrize("compress", [PostTraining(8, 8, "minmax", SMALL.shape), Quantizers(4, 4, SMALL.shape)])
def test_quantized_networks_have_an_integer_form(compress: PostTraining | Quantizers) -> None:
    torch.manual_seed(0)
    model = compress(SMALL.initialised()).eval()
    runtime, x = make_runtime("openvino_int8"), torch.randn(1, *SMALL.shape)
    with torch.no_grad():
        output, expected = torch.as_tensor(runtime.prepare(model, x)()), model(x)
    assert (output - expected).norm() < 0.3 * expected.norm()
    assert runtime.describe()["layers"].startswith(("5 of", "6 of", "7 of", "8 of"))


@pytest.mark.parametrize("rows", ["ranked", "uniform"])
def test_rounded_blocks_are_zeros_of_an_integer_network(rows: Rows) -> None:
    torch.manual_seed(0)
    compress = RoundedBlocks(RandomBlocks(4, 0.75, rows), SMALL.shape)
    model = compress(SMALL.initialised()).eval()
    layers = [m for m in model.modules() if isinstance(m, QuantMaskedConv2d)]
    assert layers and all(layer.block == 4 for layer in layers)
    weights = [layer.weight_grid().quantize(layer.weight.detach()) for layer in layers]
    assert all(not w[~layer.mask].any() and w.abs().max() == 127 for w, layer in zip(weights, layers, strict=True))
    integer, x = integer_network(model), torch.randn(1, *SMALL.shape)
    with torch.no_grad():
        assert (integer(x) - model(x)).norm() < 0.3 * model(x).norm()


def test_rounded_blocks_are_timed_on_three_networks_and_stand_for_no_method() -> None:
    found = rounded_block_networks("ranked")
    assert len(found) == len({(d.network.name, d.setting) for d in found}) == 9
    assert found == rounded_block_networks("ranked") and not any(d.representative or d.reference for d in found)
    assert {"compressbench", *INTEGER} == set(found[0].runtimes) and found[0].setting.endswith(" %, 8 bits")


DEEP = PublishedNetwork("Deep", "resnet_cifar", {"blocks": (5, 5), "widths": (8, 16), "shortcut": "conv"}, 16)


def test_activations_keep_their_size_through_a_deep_network_so_that_they_are_not_all_rounded_to_0() -> None:
    torch.manual_seed(0)
    tracked = Quantizers(4, 4, DEEP.shape)(DEEP.initialised())
    highest = [float(m.hi) for m in tracked.modules() if isinstance(m, QuantizedActivation)]
    steps = [
        float(m.input_scale)
        for compress in (
            PostTraining(4, 4, "minmax", DEEP.shape),
            RoundedBlocks(RandomBlocks(4, 0.5, "ranked"), DEEP.shape),
        )
        for m in compress(DEEP.initialised()).modules()
        if isinstance(m, QuantConv2d)
    ]
    assert len(highest) == 21 and min(highest) > 1 and min(steps) > 1 / 255


def test_binary_networks_store_signs_and_scales_where_the_method_has_some() -> None:
    name = next(title for title, network in BINARY.items() if network.architecture == "binary_vgg_small")
    dense = BINARY[name]
    for scaled in (True, False):
        model = OneBit(name, "recu", scaled)(dense.initialised())
        layers = [layer for layer in model.modules() if isinstance(layer, OneBitConv2d)]
        assert layers and all(bool((layer.weight.abs() == 1).all()) for layer in layers)
        assert all((layer.scale() is not None) == scaled for layer in layers)
        assert accounting.stored_bytes(model) < accounting.stored_bytes(dense.initialised()) / 15


def test_what_one_would_deploy_instead_is_eight_bits_and_no_row_of_a_method() -> None:
    found = next(deployment for deployment in eight_bits() if deployment.network.name == "ResNet-18")
    assert found.reference and not found.representative and found.setting == "8/8 bits"
    assert set(found.runtimes) == set(INTEGER)


def test_one_deployment_stands_for_the_method() -> None:
    for deployments in (quantizer_networks(), binary_networks("recu"), binary_networks("recu", scaled=False)):
        assert sum(deployment.representative for deployment in deployments) == 1
    assert quantizer_networks() == quantizer_networks()
    assert {d.network.name for d in quantizer_networks()} <= NETWORKS.keys()
