"""ONNX Runtime in int8."""

import tempfile
from typing import Any

from compressbench.runtimes.integer import OnIntegerNetworks
from compressbench.runtimes.onnxruntime import OnnxRuntime

INTEGER_OPERATORS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
FLOAT_OPERATORS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


class OnnxRuntimeInt8(OnIntegerNetworks, OnnxRuntime):
    """ONNX Runtime on quantized models: int8 convolutions with the method's own scales and zero points."""

    name = "onnxruntime_int8"

    def __init__(self) -> None:
        self.layers = ""

    def session(self, graph: bytes, optimized: str = "") -> Any:
        """Also counts what runs in int8."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            session = super().session(graph, f"{folder}/optimized.onnx")
            kinds = [node.op_type for node in onnx.load(f"{folder}/optimized.onnx").graph.node]
        integer = sum(kinds.count(kind) for kind in INTEGER_OPERATORS)
        self.layers = f"{integer} of {integer + sum(kinds.count(kind) for kind in FLOAT_OPERATORS)} layers in int8"
        return session

    def describe(self) -> dict[str, str]:
        """Also how many layers ran in int8."""
        about = super().describe()
        return about | {"layers": self.layers}
