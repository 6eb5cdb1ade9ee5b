"""OpenVINO in fp32, bf16 and int8."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from compressbench import machine
from compressbench.kernels.autotune import Call
from compressbench.layers.deployment import deploy
from compressbench.layers.registry import CompressedLayer
from compressbench.runtimes.base import Runtime, Skip, last_line
from compressbench.runtimes.integer import OnIntegerNetworks
from compressbench.runtimes.onnx_export import graph_of

PRODUCTS = ("Convolution", "FullyConnected", "MatMul")
"""What OpenVINO calls the layers that multiply with weights."""


class OpenVino(Runtime):
    """OpenVINO's CPU plugin on a static fp32 graph, which for quantized models simulates the quantizers."""

    name = "openvino"
    precision = "f32"
    products: Counter[str]

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Compile, and bind a copy of the input."""
        try:
            import openvino

            graph = graph_of(model, self.network, example)
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(graph), "CPU", self.options())
            request = compiled.create_infer_request()
            request.set_input_tensor(openvino.Tensor(example.contiguous().numpy()))
            request.infer()  # some graphs fail only now
        except ImportError as error:
            raise Skip(f"{error.name} is not installed") from error
        except RuntimeError as error:
            raise Skip(last_line(error)) from error
        nodes = (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
        self.products = Counter(n["runtimePrecision"].value for n in nodes if n["layerType"].value in PRODUCTS)
        output = request.get_output_tensor().data  # the same memory at every call

        def call() -> Any:
            request.infer()
            return output

        return call

    @staticmethod
    def network(model: nn.Module) -> nn.Module:
        """What is exported."""
        return deploy(model)

    def options(self) -> dict[str, Any]:
        """One stream with the present number of threads, which neither leaves its cores nor waits for work."""
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def describe(self) -> dict[str, str]:
        """OpenVINO does not report its instruction set: `isa` is the best of the CPU's flags, as for its kernels."""
        import openvino

        flags = machine.describe()["isa"]
        wanted = {"bf16": ("amx_tile", "avx512_bf16"), "int8": ("amx_tile", "avx512_vnni", "avx_vnni")}
        known = (*wanted.get(self.arithmetic, ()), "avx512f", "avx2", "sse4_2", "asimd")
        isa = next((flag for flag in known if flag in flags), "unknown")
        return {"library": f"openvino {openvino.__version__.partition('-')[0]}", "isa": isa.upper()}


class OpenVinoBfloat16(OpenVino):
    """OpenVINO with products in bf16, which needs nothing of the network: what the same weights cost at half the width."""

    name = "openvino_bf16"
    arithmetic = "bf16"
    precision = "bf16"
    tolerance = 0.05

    def objection(self, compressed: nn.Module) -> str:
        """It would run compressed layers as dense ones; a processor without the instructions would compute in fp32."""
        if any(isinstance(layer, CompressedLayer) for layer in compressed.modules()):
            return "masks and quantizers win nothing here: see the time of the dense network"
        flags = machine.describe()["isa"]
        fast = any(flag in flags for flag in ("avx512_bf16", "amx_tile", "bf16"))
        return "" if fast else "this processor has no bf16 instructions"


class OpenVinoInt8(OnIntegerNetworks, OpenVino):
    """OpenVINO on quantized models: int8 products with the method's own scales and zero points."""

    name = "openvino_int8"

    def describe(self) -> dict[str, str]:
        """Also how many layers ran in int8."""
        integer = self.products["u8"] + self.products["i8"]
        return super().describe() | {"layers": f"{integer} of {self.products.total()} layers in int8"}
