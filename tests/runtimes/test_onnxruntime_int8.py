"""Tests of ONNX Runtime in int8: which models are worth it, and how many layers ran in int8."""

import torch
from torch import nn

from compressbench.layers.quantized import quantize_activation, quantize_layer
from compressbench.runtimes.onnxruntime_int8 import OnnxRuntimeInt8


def test_only_quantized_models_are_timed() -> None:
    assert OnnxRuntimeInt8().objection(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())) == "nothing is quantized"
    assert OnnxRuntimeInt8().objection(nn.Sequential(quantize_layer(nn.Conv2d(3, 4, 3), 4, 4))) == ""


def test_a_layer_without_a_quantizer_behind_it_is_counted_as_float() -> None:
    torch.manual_seed(0)
    layers = [quantize_layer(nn.Conv2d(8, 8, 3, padding=1), 4, 4) for _ in range(3)]
    activations = [quantize_activation(nn.ReLU(), 4, "plain") for _ in range(3)]
    for activation in activations:
        activation.hi.fill_(2.0)
    model = nn.Sequential(activations[0], layers[0], activations[1], layers[1], activations[2], layers[2]).eval()
    runtime = OnnxRuntimeInt8()
    with torch.no_grad():
        runtime.prepare(model, torch.rand(1, 8, 6, 6))
    assert runtime.describe()["layers"] == "2 of 3 layers in int8"
