"""Whole networks on the block-sparse kernels compute what the masked model computes."""

import re

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.kernels import native
from compressbench.layers.binary import OneBitConv2d, SignConv2d, binarise, binary_layers
from compressbench.layers.masked import masked
from compressbench.layers.registry import replace_modules
from compressbench.pruning.blocks import prunable_layers, random_block_mask, weights_of
from compressbench.pruning.masks import apply_masks
from compressbench.runtimes import native as runtime_module
from compressbench.runtimes.native import NativeRuntime


def pruned(architecture: str, n: int, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    model = models.build(architecture, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    weights = weights_of(model, prunable_layers(model))
    masks = {
        name: random_block_mask(w, n if len(w) % n == 0 else 1, 0.9, torch.Generator()) for name, w in weights.items()
    }
    for block in (n, 1):
        chosen = {name: mask for name, mask in masks.items() if (len(mask) % n == 0) == (block == n)}
        apply_masks(model, chosen, block=block)
    return model.eval()


@pytest.mark.parametrize(
    ("architecture", "arguments", "shape", "n"),
    [
        ("resnet_cifar", {"blocks": [2, 2], "widths": [16, 32], "shortcut": "conv"}, (3, 20, 20), 4),
        ("resnet50", {"classes": 10}, (3, 64, 64), 16),
        ("mobilenet_v2", {"classes": 10}, (3, 64, 64), 4),
        ("mobilenet_v3_small", {"classes": 10}, (3, 64, 64), 8),
        ("vgg", {}, (3, 32, 32), 8),
        ("plain", {}, (1, 28, 28), 4),
        ("edsr", {"blocks": 2, "channels": 16, "mean_shift": False}, (3, 13, 17), 4),
    ],
)
def test_it_computes_the_masked_network_again_and_again(architecture, arguments, shape, n) -> None:
    model = pruned(architecture, n, **arguments)
    x = torch.randn(1, *shape)
    runtime = NativeRuntime()
    with torch.no_grad():
        expected, call = model(x), runtime.prepare(model, x)
        for _ in range(3):
            torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert sum(runtime.forms.values()) == sum(isinstance(m, nn.Conv2d) for m in model.modules())


def test_an_operation_in_place_is_no_view() -> None:
    model = nn.Sequential(
        masked(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1))), nn.AdaptiveAvgPool2d(1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(8, 6),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        expected, call = model(x), NativeRuntime().prepare(model, x)
        for _ in range(3):
            torch.testing.assert_close(call(), expected)


@pytest.mark.parametrize("scaling", ["none", "mean"])
def test_binary_convolutions_run_on_their_kernel(scaling: str) -> None:
    torch.manual_seed(3)
    model = models.build("resnet_cifar", blocks=[2, 2], widths=[16, 72], shortcut="conv")

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        inner = type(module) is nn.Conv2d and name.startswith("stages") and module.kernel_size == (3, 3)
        return SignConv2d.rebuild(module, {"scaling": scaling}) if inner else None

    replace_modules(model, replace)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(1, 50)
    x, runtime = torch.randn(1, 3, 20, 20), NativeRuntime()
    with torch.no_grad():
        expected, call = model.eval()(x), runtime.prepare(model, x)
        for _ in range(2):
            torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
    assert runtime.objection(model) == ""
    assert runtime.forms["binary"] == 8
    assert "8 binary" in runtime.describe()["layers"]


@pytest.mark.parametrize(
    ("architecture", "form", "count"),
    [("binary_resnet18_cifar", "siman", 19), ("binary_vgg_small", "siman", 5), ("binary_resnet18", "recu", 16)],
)
def test_published_binary_networks_run_packed_with_and_without_the_mean_removed(architecture, form, count) -> None:
    torch.manual_seed(0)
    settings = {"scaled": True, "centred": form == "siman"}
    model = models.build(architecture, form=form, classes=10)
    binarise(model, lambda layer: OneBitConv2d.rebuild(layer, settings)).eval()
    for layer in binary_layers(model).values():
        layer.weight.data.sign_()
        layer.alpha.data.uniform_(0.01, 0.02)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1)
            module.bias.data.normal_()
    x, runtime = torch.randn(1, 3, 32, 32), NativeRuntime()
    with torch.no_grad():
        expected, call = model(x), runtime.prepare(model, x)
        error = (call() - expected).norm() / expected.norm()
    assert error < 0.05  # a last bit may turn a sign: most come out to the bit
    assert runtime.forms["binary"] == count


def test_without_a_compiler_everything_runs_and_says_that_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "is_built", lambda: False)
    model = pruned("plain", 4)
    x, runtime = torch.randn(1, 1, 28, 28), NativeRuntime()
    with torch.no_grad():
        torch.testing.assert_close(runtime.prepare(model, x)(), model(x), rtol=1e-4, atol=1e-4)
    assert "slow" in runtime.describe()["isa"]


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_large_sparse_layers_run_on_the_kernel_and_share_their_buffers() -> None:
    model = pruned("resnet50", 16, classes=10)
    runtime = NativeRuntime()
    with torch.no_grad():
        execution = runtime.prepare(model, torch.randn(1, 3, 128, 128)).__self__
    assert runtime.forms["block-sparse 1x16"] >= 40
    buffers = execution.memory.buffers.values()
    assert len({buffer.data_ptr() for buffer in buffers}) < len(buffers) / 2
    assert re.search(r"\d+ block-sparse 1x16 \(tile \d+x\d+", runtime.describe()["layers"])


@pytest.mark.parametrize("image_by_image", [False, True])
def test_a_batch_runs_at_once_or_image_by_image(image_by_image: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "fastest", lambda forms, **_: list(forms)[image_by_image])
    model, x = pruned("mobilenet_v2", 4, classes=10), torch.randn(3, 3, 32, 32)
    runtime = NativeRuntime()
    with torch.no_grad():
        call = runtime.prepare(model, x)
        for _ in range(2):
            x.normal_()
            torch.testing.assert_close(call(), model(x), rtol=1e-3, atol=1e-4)
    assert sum(runtime.forms.values()) == sum(isinstance(m, nn.Conv2d) for m in model.modules())


def test_images_that_depend_on_each_other_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(x - x.mean())

    monkeypatch.setattr(runtime_module, "fastest", lambda forms, **_: list(forms)[-1])
    model, x = Centred().eval(), torch.randn(2, 3, 8, 8) + torch.arange(2.0)[:, None, None, None]
    with torch.no_grad():
        torch.testing.assert_close(NativeRuntime().prepare(model, x)(), model(x), rtol=1e-4, atol=1e-4)
