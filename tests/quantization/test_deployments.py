"""Quantized networks as papers deploy them."""

import pytest
import torch

from compressbench import accounting
from compressbench.layers.binary import OneBitConv2d
from compressbench.models.published import NETWORKS, PublishedNetwork
from compressbench.quantization.deployments import (
    BINARY,
    INTEGER,
    OneBit,
    PostTraining,
    Quantizers,
    binary_networks,
    eight_bits,
    quantizer_networks,
)
from compressbench.runtimes.discovery import make_runtime

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
