"""Reordering and removing filters keeps what the network computes."""

import pytest
import torch
from torch import Tensor, nn

from compressbench import accounting, models
from compressbench.errors import UserError
from compressbench.models import Coupling
from compressbench.pruning.masks import apply_masks
from compressbench.pruning.surgery import build_narrow, keep_filters, permute_filters

PLAIN = {"widths": (8, 12, 12), "strides": (2, 1, 2)}
RESNET = {"in_channels": 1, "blocks": (1, 1, 1), "widths": (4, 8, 8), "shortcut": "conv"}
NETWORKS: list[tuple[str, dict, tuple[int, ...]]] = [
    ("plain", PLAIN, (1, 14, 14)),
    ("resnet_cifar", RESNET, (1, 14, 14)),
    ("googlenet", {}, (3, 16, 16)),
    ("resnet50", {"classes": 10}, (3, 32, 32)),
    ("mobilenet_v2", {"classes": 10, "variant": "cifar"}, (3, 16, 16)),
    ("mobilenet_mini", {"stem": 4, "widths": (8, 8, 12), "strides": (1, 2, 1)}, (1, 14, 14)),
    ("mobilenet_v2", {"classes": 10}, (3, 32, 32)),
    ("mobilenet_v3_small", {"classes": 10}, (3, 32, 32)),
]


def network(name: str, arguments: dict) -> nn.Module:
    """Random weights, and batch norms that are not the identity, in double precision."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = models.build(name, **arguments).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model


def images(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("name", "arguments", "shape"), NETWORKS)
def test_permuted_network_computes_the_same(name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    model, x, generator = network(name, arguments), images(shape), torch.Generator().manual_seed(2)
    before, old = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    orders = {
        c.key: torch.randperm(model.get_submodule(c.producer).weight.shape[0], generator=generator)
        for c in model.couplings()
    }
    permute_filters(model, orders)
    moved = [c.producer for c in model.couplings()]
    assert moved and all(not torch.equal(model.state_dict()[f"{n}.weight"], old[f"{n}.weight"]) for n in moved)
    assert torch.allclose(model(x), before, rtol=0, atol=1e-5 * before.abs().max().item())


def silence(model: nn.Module, coupling: Coupling, kept: Tensor) -> None:
    """Filters and normalisation of all other channels at 0: what the masked model computes."""
    removed = torch.ones(len(model.get_submodule(coupling.producer).weight), dtype=torch.bool)
    removed[kept] = False
    with torch.no_grad():
        for conv, norm in coupling.outputs:
            model.get_submodule(conv).weight[removed] = 0
            model.get_submodule(norm).weight[removed] = model.get_submodule(norm).bias[removed] = 0


@pytest.mark.parametrize(("name", "arguments", "shape"), NETWORKS)
def test_narrow_network_equals_the_masked_one(name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    """All couplings at once: inner channels, residual sums, concatenations, depthwise filters and gates."""
    model, x, generator = network(name, arguments), images(shape), torch.Generator().manual_seed(2)
    kept = {}
    for coupling in model.couplings():
        channels = len(model.get_submodule(coupling.producer).weight)
        kept[coupling.key] = torch.randperm(channels, generator=generator)[: (channels + 1) // 2].sort().values
    narrow = keep_filters(model, kept)
    for coupling in model.couplings():
        silence(model, coupling, kept[coupling.key])
    widths = {c.key: len(narrow.get_submodule(c.producer).weight) for c in narrow.couplings()}
    assert widths == {key: len(index) for key, index in kept.items()}
    assert torch.allclose(narrow(x), model(x), rtol=0, atol=1e-5 * narrow(x).abs().max().item())


def test_narrow_network_has_the_counts_of_its_widths() -> None:
    narrow = keep_filters(network("plain", PLAIN), {"body.1.conv": torch.arange(5)})
    counts = accounting.account(narrow, (1, 14, 14))
    assert counts.weights == 9 * (1 * 8 + 8 * 5 + 5 * 12) + 12 * 10
    assert counts.macs == 9 * 49 * (8 + 8 * 5) + 9 * 16 * 5 * 12 + 120
    assert counts.params == counts.weights + 2 * (8 + 5 + 12) + 10
    assert narrow.spec.arguments["inner_widths"] == {"body.1.conv": 5}


def test_channels_of_a_sum_or_of_the_output_have_no_free_order() -> None:
    model = network("resnet_cifar", RESNET)
    with pytest.raises(ValueError, match=r"stages\.0\.0\.conv2"):
        permute_filters(model, {"stages.0.0.conv2": torch.arange(4)})
    padded = network("resnet_cifar", RESNET | {"shortcut": "pad"})
    with pytest.raises(ValueError, match=r"stages\.1"):
        permute_filters(padded, {"stages.1": torch.arange(8)})


def test_masks_move_with_their_filters() -> None:
    model, x = network("plain", PLAIN), images((1, 14, 14))
    mask = torch.rand(12, 8, 3, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    apply_masks(model, {"body.1.conv": mask})
    before, order = model(x), torch.arange(11, -1, -1)
    permute_filters(model, {"body.1.conv": order})
    assert torch.equal(model.get_submodule("body.1.conv").mask, mask[order])
    assert torch.allclose(model(x), before, atol=1e-10)


def test_masked_networks_are_not_narrowed() -> None:
    model = apply_masks(network("plain", PLAIN), {"body.1.conv": torch.ones(12, 8, 3, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="before masking"):
        keep_filters(model, {"body.1.conv": torch.arange(3)})


def test_a_layer_without_filters_is_named() -> None:
    model = models.build("plain", in_channels=1)
    with pytest.raises(UserError, match=r"no filter of body\.0\.conv would be left; choose a lower compression"):
        build_narrow(model, {"body.0.conv": 0})
