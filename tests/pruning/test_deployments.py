"""Sparse networks as papers deploy them."""

import pytest

from compressbench import accounting
from compressbench.layers.masked import masked_layers
from compressbench.models.published import NETWORKS, PublishedNetwork
from compressbench.pruning.deployments import RandomBlocks, RandomWeights, block_networks, sparse_networks
from compressbench.pruning.masks import kept_weights, removed_count

SMALL = PublishedNetwork("Small", "resnet_cifar", {"blocks": (1, 1), "widths": (8, 24)}, 16)


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_single_weights_have_the_sparsity_that_the_setting_says(distribution: str) -> None:
    model = RandomWeights(0.9, distribution)(SMALL.initialised())  # type: ignore[arg-type]
    total = sum(layer.weight.numel() for layer in masked_layers(model).values())
    first = next(iter(masked_layers(model).values())).weight.numel()
    exact = total - removed_count(total, 0.9)
    assert kept_weights(model) == pytest.approx(exact if distribution == "erk" else exact + 0.9 * first, abs=10)


def test_blocks_leave_layers_dense_that_n_does_not_divide() -> None:
    model = RandomBlocks(16, 0.75, "uniform")(SMALL.initialised())
    assert all(len(layer.weight) % 16 == 0 for layer in masked_layers(model).values()) or not masked_layers(model)
    halved = RandomBlocks(8, 0.75, "uniform")(SMALL.initialised())
    assert {layer.block for layer in masked_layers(halved).values()} == {8}
    for layer in masked_layers(halved).values():
        assert float(layer.mask.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_one_deployment_stands_for_the_method() -> None:
    for deployments in (sparse_networks(), block_networks("ranked")):
        assert sum(deployment.representative for deployment in deployments) == 1
        assert len({(d.network.name, d.setting) for d in deployments}) == len(deployments)
        assert {d.network.name for d in deployments} <= NETWORKS.keys()


def test_methods_that_deploy_the_same_are_equal() -> None:
    assert sparse_networks() == sparse_networks()
    assert block_networks("ranked") != block_networks("uniform")


def test_published_costs_of_resnet50_at_90_percent() -> None:
    """The authors of RigL print 0.24 (ERK) and 0.13 (uniform) of the dense operations."""
    dense = NETWORKS["ResNet-50"]
    total = accounting.account(dense.build(), dense.shape).macs
    for deployment in sparse_networks():
        if deployment.network is dense and deployment.setting.startswith("90 %"):
            share = accounting.account(deployment.compress(dense.initialised()), dense.shape).macs / total
            assert share == pytest.approx(0.24 if "ERK" in deployment.setting else 0.13, abs=0.01)
