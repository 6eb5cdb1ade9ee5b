"""Tests of the fp32 ONNX graph of a model."""

import logging

import onnx
import pytest
import torch
from torch import Tensor, nn

from compressbench.runtimes.base import Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.runtimes.onnx_export import export


def test_model_without_onnx_form_is_skipped_with_a_reason():
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(Skip, match=r"no ONNX graph.*bessel"):
        make_runtime("onnxruntime").prepare(Strange(), torch.ones(1, 1, 2, 2))


def test_the_graph_has_the_shape_of_the_example_and_one_input_and_output() -> None:
    graph = onnx.load_from_string(export(nn.Conv2d(3, 5, 3).eval(), torch.randn(1, 3, 8, 8))).graph
    (given,), (result,) = graph.input, graph.output
    shapes = [[axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in (given, result)]
    assert (given.name, result.name) == ("input", "output") and shapes == [[1, 3, 8, 8], [1, 5, 6, 6]]


def test_a_pooling_that_onnx_lacks_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AvgPool2d(2, divisor_override=3)).eval()
    with pytest.raises(RuntimeError, match="no average pooling with the divisor of 1"):
        export(model, torch.randn(1, 3, 8, 8))


def test_the_level_of_the_exporters_messages_is_restored() -> None:
    log = logging.getLogger("torch.onnx")
    level = log.level
    export(nn.ReLU(), torch.randn(1, 3, 4, 4))
    assert log.level == level
