"""Masks and batch norms folded into plain layers: the same outputs with less work."""

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.layers.deployment import deploy, foldable_pairs, simulated_kinds
from compressbench.layers.masked import masked, masked_layers
from compressbench.layers.quantized import quantize_layer

NETWORKS = [
    ("resnet_cifar", {"blocks": [1, 1, 1], "stem_stride": 2, "in_channels": 1, "shortcut": "conv"}, (1, 28, 28)),
    ("plain", {"classifier": "conv"}, (1, 28, 28)),
    ("edsr", {"blocks": 1, "channels": 8, "scale": 2}, (3, 12, 12)),
]


def randomised(model: nn.Module) -> nn.Module:
    """Eval mode, with batch norms that have seen data."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight.data, -1, 1),
                (module.bias.data, -1, 1),
            ):
                assert tensor is not None
                tensor.uniform_(low, high)
    return model.eval()


def relative_error(output: Tensor, expected: Tensor) -> float:
    return ((output - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("architecture, arguments, shape", NETWORKS)
def test_deployed_model_equals_the_masked_model_and_leaves_it_alone(architecture, arguments, shape):
    model = randomised(masked(models.build(architecture, **arguments)))
    for layer in masked_layers(model).values():
        layer.mask.copy_(torch.rand_like(layer.weight) > 0.8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert relative_error(deploy(model)(x), model(x)) < 1e-6
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("architecture, arguments, shape", NETWORKS)
def test_deployed_model_has_neither_masks_nor_batch_norms(architecture, arguments, shape):
    deployed = deploy(masked(models.build(architecture, **arguments)))
    assert not masked_layers(deployed)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())


def test_batch_norm_after_a_quantized_convolution_is_not_folded():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model[2] = quantize_layer(model[2], weight_bits=4, input_bits=32)
    deployed = deploy(randomised(model))
    assert [type(module) for module in deployed][1::2] == [nn.Identity, nn.BatchNorm2d]
    assert simulated_kinds(model) == ["quant_conv2d"]


def test_convolution_that_is_also_read_elsewhere_keeps_its_batch_norm():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    model, x = randomised(Net()), torch.randn(1, 2, 4, 4)
    assert isinstance(deploy(model).norm, nn.BatchNorm2d)
    assert torch.equal(deploy(model)(x), model(x))


def test_forward_that_branches_on_values_is_deployed_unfolded():
    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    model, x = randomised(Net(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))), torch.ones(1, 2, 4, 4)
    assert torch.equal(deploy(model)(x), model(x))


def test_deployed_layers_are_plain_and_hold_the_masked_weight_itself():
    model = masked(nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False))).train()
    model[1].mask[0] = False
    deployed = deploy(model)
    assert type(deployed[1]) is nn.Linear and deployed[1].bias is None
    assert torch.equal(deployed[1].weight, model[1].weight * model[1].mask)
    assert model.training and not deployed.training and not any(p.requires_grad for p in deployed.parameters())
    assert simulated_kinds(model) == []


def test_a_networks_pairs_are_none_where_it_cannot_be_traced():
    class Branches(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    layers = (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    assert foldable_pairs(nn.Sequential(*layers)) == [("0", "1")] and foldable_pairs(Branches(*layers)) == []
