"""What methods deploy: every declaration builds a network that runs, and that is as large as its setting says."""

from typing import cast

import pytest
import torch
from torch import nn

from compressbench import accounting
from compressbench.config.discovery import discover
from compressbench.layers.bounds import BoundedActivation
from compressbench.method import Deployment
from compressbench.method.loading import method_class
from compressbench.method.operating_points import ImageDependent
from compressbench.method.untrained import Unchanged
from tests.conftest import ROOT

DEPLOYED = {name: found for name in discover(ROOT) if (found := method_class(ROOT, name).deployments())}
REPRESENTATIVES = {name: next(d for d in found if d.representative) for name, found in DEPLOYED.items()}


def built(deployment: Deployment) -> nn.Module:
    torch.manual_seed(0)
    return deployment.compress(deployment.network.initialised()).eval()


def macs(model: nn.Module, deployment: Deployment) -> int:
    return accounting.account(model, deployment.network.shape).macs


def found(method: str, network: str, setting: str) -> Deployment:
    return next(d for d in DEPLOYED[method] if (d.network.name, d.setting) == (network, setting))


def test_every_paper_is_timed() -> None:
    papers = {name for name, declared in discover(ROOT).items() if not declared.is_baseline}
    assert papers <= DEPLOYED.keys()


@pytest.mark.parametrize("method", sorted(REPRESENTATIVES))
def test_one_deployment_stands_for_a_method_and_runs(method: str) -> None:
    assert sum(deployment.representative for deployment in DEPLOYED[method]) == 1
    deployment = REPRESENTATIVES[method]
    model = built(deployment)
    with torch.no_grad():
        output = model(torch.randn(1, *deployment.network.shape))
    assert bool(output.isfinite().all())
    if not isinstance(deployment.compress, Unchanged):
        dense = deployment.network.initialised()
        costs = [(macs(m, deployment), accounting.stored_bytes(m)) for m in (model, dense)]
        smaller = any(own < other for own, other in zip(*costs, strict=True))
        assert smaller or method == "lec_net", "the network of a method is smaller or computes less"


def test_a_subnet_has_the_multiply_accumulates_of_its_budget() -> None:
    for deployment in DEPLOYED["pss_net"]:
        target = int(deployment.setting.removesuffix(" MMACs"))
        assert macs(built(deployment), deployment) / 1e6 == pytest.approx(target, rel=0.015)


def test_a_switch_turns_one_structure_into_another() -> None:
    deployment = found("pss_net", "MobileNet-V1", "273 MMACs")
    assert deployment.switch is not None
    switch = deployment.switch(deployment.network.initialised())
    sizes = [macs(cast(nn.Module, switch()), deployment) for _ in range(3)]
    assert sizes[0] == sizes[2] > 1.5 * sizes[1]


def test_a_share_of_a_batch_exits_after_the_coarse_pass() -> None:
    """1.5 GFLOPs of published.csv, 2.0 and 2.5, to the images of a batch."""
    for deployment, gmacs in zip([d for d in DEPLOYED["cf_vit"] if d.batch > 1], (1.5, 2.0, 2.5), strict=False):
        model = built(deployment)
        assert isinstance(model, ImageDependent)
        images = torch.randn(deployment.batch, *deployment.network.shape)
        assert model.mean_macs([images]) / 1e9 == pytest.approx(gmacs, abs=0.1)
        with torch.no_grad():
            assert model(images).shape == (deployment.batch, 1000)


def test_uniform_widths_have_the_published_reduction() -> None:
    deployment = found("white_box", "ResNet-56 (CIFAR)", "uniform widths, MACs −55.6 %")
    dense = macs(deployment.network.initialised(), deployment)
    assert 1 - macs(built(deployment), deployment) / dense == pytest.approx(0.556, abs=0.01)


def test_coarse_and_both_passes_have_the_published_arithmetic() -> None:
    """DeiT-S 7x7 of published.csv: 1.10 GMACs for images that exit, 4.01 for the others."""
    coarse, both = (found("cf_vit", "DeiT-S", words) for words in ("coarse pass alone", "both passes"))
    assert macs(built(coarse), coarse) / 1e9 == pytest.approx(1.10, abs=0.01)
    assert macs(built(both), both) / 1e9 == pytest.approx(4.01, abs=0.01)


def test_gates_are_where_the_setting_says() -> None:
    gates = []
    for words in ("4/4 bits, without gates", "4/4 bits, gated"):
        layers = [m for m in built(found("ddtb", "SRResNet x4", words)).modules() if isinstance(m, BoundedActivation)]
        gates.append(sum(layer.gate_channels is not None for layer in layers))
    assert gates[0] == 0 < gates[1]


def test_the_head_grows_with_the_sessions() -> None:
    first, last = (found("lec_net", "ResNet-18, growing head", f"after session {k}") for k in (1, 10))
    assert built(first)(torch.zeros(1, 3, 224, 224)).shape[1] == 110
    assert built(last)(torch.zeros(1, 3, 224, 224)).shape[1] == 200
