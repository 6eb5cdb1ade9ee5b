"""ONNX Runtime."""

from typing import Any

import torch
from torch import Tensor, nn

from compressbench import machine
from compressbench.kernels.autotune import Call
from compressbench.layers.deployment import deploy
from compressbench.runtimes.base import Runtime, Skip, last_line
from compressbench.runtimes.onnx_export import graph_of


class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider on a static fp32 graph, which for quantized models simulates the quantizers."""

    name = "onnxruntime"

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Export, and bind the input and output in place, as torch has them."""
        try:
            session = self.session(graph_of(model, self.network, example))
            binding, found = session.io_binding(), session.get_outputs()[0]
            if found.type != "tensor(float)":
                raise Skip(f"the network returns a {found.type}, not float32")
            output = torch.empty(found.shape).numpy()
            binding.bind_cpu_input("input", example.contiguous().numpy())
            binding.bind_output("output", "cpu", 0, output.dtype, output.shape, output.ctypes.data)
            session.run_with_iobinding(binding)  # some graphs fail only now
        except ImportError as error:
            raise Skip(f"{error.name} is not installed") from error
        except RuntimeError as error:
            raise Skip(last_line(error)) from error

        def call() -> Any:
            session.run_with_iobinding(binding)
            return output

        return call

    @staticmethod
    def network(model: nn.Module) -> nn.Module:
        """What is exported."""
        return deploy(model)

    def session(self, graph: bytes, optimized: str = "") -> Any:
        """An inference session for the present number of threads; `optimized` is a file for its optimized graph."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = optimized
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The idle threads of one session would otherwise spin on the core on which the other session is being timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    def describe(self) -> dict[str, str]:
        """ONNX Runtime does not report its instruction set: `isa` is the best of the CPU's flags, as for its kernels."""
        import onnxruntime

        flags = machine.describe()["isa"]
        isa = next((flag for flag in ("avx512f", "avx2", "avx", "sse4_2", "asimd") if flag in flags), "unknown")
        return {"library": f"onnxruntime {onnxruntime.__version__}", "isa": isa.upper()}
