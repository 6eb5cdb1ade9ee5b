"""Every library runs masked and quantized networks as PyTorch computes them."""

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.layers.masked import masked, masked_layers
from compressbench.layers.quantized import quantize_activation, quantize_layer
from compressbench.layers.registry import replace_modules
from compressbench.runtimes.discovery import make_runtime

LIBRARIES = ["torch_eager", "torch_compiled", "onnxruntime", "openvino"]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize(
    "architecture, arguments, shape",
    [
        ("resnet_cifar", {"blocks": [1, 1], "widths": [8, 16]}, (3, 16, 16)),
        ("edsr", {"blocks": 1, "channels": 8}, (3, 8, 8)),
    ],
)
def test_runtime_computes_the_masked_model(name, architecture, arguments, shape):
    torch.manual_seed(0)
    model = masked(models.build(architecture, **arguments)).eval()
    for layer in masked_layers(model).values():
        layer.mask.copy_(torch.rand_like(layer.weight) > 0.5)
    x = torch.randn(1, *shape)
    runtime = make_runtime(name)
    with torch.no_grad():
        call, expected = runtime.prepare(model, x), model(x)
        output = torch.as_tensor(call())
    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert set(runtime.describe()) == {"library", "isa"}
    assert all(runtime.describe().values())


def quantized_network() -> nn.Module:
    torch.manual_seed(0)
    model = models.build("plain", widths=[8, 8], strides=[1, 2])

    def replace(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.ReLU):
            return quantize_activation(module, 3, "plain")
        return quantize_layer(module, 3, 3) if isinstance(module, nn.Conv2d) else None

    model = replace_modules(model, replace).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("hi"):
            buffer.fill_(2.0)
    return model


@pytest.mark.parametrize("name", LIBRARIES)
def test_quantized_network_runs_as_the_float_graph_that_simulates_it(name):
    model, x = quantized_network(), torch.randn(1, 1, 12, 12)
    with torch.no_grad():
        output, expected = torch.as_tensor(make_runtime(name).prepare(model, x)()), model(x)
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
