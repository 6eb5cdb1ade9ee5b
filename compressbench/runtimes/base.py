"""Ways to run a network on the CPU. A new one is a subclass of `Executor` with the decorator `@executor`."""

import functools
import re
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compressbench import machine
from compressbench.compression.deploy import deploy
from compressbench.errors import UserError
from compressbench.kernels.autotune import Call, fastest
from compressbench.runtimes.integer import NoIntegerForm, has_codes, integer_network

INTEGER_OPERATORS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
FLOAT_OPERATORS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


class Skip(Exception):
    """This executor cannot run this model; the reason is recorded and shown."""


class Executor(ABC):
    """One way to run a network; an instance serves one number of threads.

    The model is as the method left it, in eval mode and with its compressed layers: an executor with sparse or low-bit
    kernels still sees masks, blocks and bit widths; one that runs a dense library calls `deploy`.
    """

    name: ClassVar[str]

    def objection(self, compressed: nn.Module) -> str:
        """Why there is no point in timing this model here; empty when there is. Asked before anything is prepared."""
        return ""

    @abstractmethod
    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Do all that need not be timed, for an input `example` [1, ...]; raise `Skip` where the model cannot run.

        What is returned runs the network once, with `torch.get_num_threads()` threads, and returns its output as
        a tensor or NumPy array, which the harness compares with the model's own before it times.
        """

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What ran, asked after `prepare`: {"library": name and version, "isa": instruction set}.

        Where layers run in different forms, also {"layers": how many in which}.
        """


EXECUTORS: dict[str, type[Executor]] = {}


def executor(cls: type[Executor]) -> type[Executor]:
    """Register an executor under its name."""
    EXECUTORS[cls.name] = cls
    return cls


def make_executor(name: str) -> Executor:
    """A fresh executor; UserError lists the names when it is unknown."""
    if name not in EXECUTORS:
        raise UserError(f"unknown executor {name!r}: choose from {', '.join(sorted(EXECUTORS))}")
    return EXECUTORS[name]()


class _Torch(Executor):
    """What the two PyTorch executors share: channels_last tensors, and a record of the kernels that really ran."""

    def __init__(self) -> None:
        self.implementations: set[str] = set()

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Deploy, compile, and record what a run executes."""
        example = _channels_last(example)
        network = self.compile(_channels_last(deploy(model)), example)

        def call() -> Tensor:
            return network(example)

        self.implementations |= machine.onednn_implementations(call)
        return call

    def compile(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """The function to time; eager mode times the module itself."""
        return model

    def describe(self) -> dict[str, str]:
        """oneDNN's own words on its kernels, or PyTorch's instruction set where it chose native ones."""
        if not self.implementations:
            return {"library": f"torch {torch.__version__} native", "isa": torch.backends.cpu.get_cpu_capability()}
        kernels, sets = zip(*(name.split(":", 1) for name in sorted(self.implementations)), strict=True)
        library = f"torch {torch.__version__} oneDNN {_onednn_version()} {'+'.join(sorted(set(kernels)))}"
        return {"library": library, "isa": "+".join(sorted(set(sets))).upper()}


@executor
class TorchEager(_Torch):
    """PyTorch as people run it, with batch norms folded and channels_last."""

    name = "torch_eager"


@executor
class TorchCompiled(_Torch):
    """TorchScript: the faster, in a short trial, of a frozen graph and one with weights packed for oneDNN beforehand.

    Frozen wins on networks below a few milliseconds (0.17 against 0.40 ms, eager mode 0.28), packed on ImageNet's (90
    against 103 ms on ResNet-50). Both together take 0.1 s to prepare. `torch.compile` takes 20 s for the first network
    and was no faster than eager mode on the small ones, so it is not used.
    """

    name = "torch_compiled"

    def compile(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """The TorchScript module."""
        with warnings.catch_warnings():  # of values traced as constants, as one fixed input shape wants
            warnings.simplefilter("ignore")
            try:
                traced = torch.jit.trace(model, example, check_trace=False)
                frozen = torch.jit.freeze(traced)
                packed = torch.jit.optimize_for_inference(torch.jit.freeze(traced))  # rewrites the graph that it gets
                forms = {"frozen": frozen, "packed": packed}
                return forms[fastest({name: functools.partial(form, example) for name, form in forms.items()})]
            except (RuntimeError, NotImplementedError) as error:
                raise Skip(f"TorchScript cannot run this model: {_last_line(error)}") from error


@executor
class OnnxRuntime(Executor):
    """ONNX Runtime's CPU provider on a static fp32 graph, which for quantized models simulates the quantizers."""

    name = "onnxruntime"

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Export, and bind the input and output in place, as torch has them."""
        try:
            from compressbench.runtimes.onnx_export import export

            session = self.session(export(self.network(model), example))
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
            raise Skip(_last_line(error)) from error

        def call() -> Any:
            session.run_with_iobinding(binding)
            return output

        return call

    def network(self, model: nn.Module) -> nn.Module:
        """What is exported."""
        return deploy(model)

    def session(self, graph: bytes, optimized: str = "") -> Any:
        """An inference session for the present number of threads, which leaves its optimized graph in a file if told so."""
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
        """The instruction set is the best of the CPU's flags, by which its kernels are chosen; it does not tell."""
        import onnxruntime

        flags = machine.describe()["isa"]
        isa = next((flag for flag in ("avx512f", "avx2", "avx", "sse4_2", "asimd") if flag in flags), "unknown")
        return {"library": f"onnxruntime {onnxruntime.__version__}", "isa": isa.upper()}


@executor
class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime on quantized models: int8 convolutions with the method's own scales and zero points."""

    name = "onnxruntime_int8"

    def __init__(self) -> None:
        self.layers = ""

    def objection(self, compressed: nn.Module) -> str:
        """Only quantized models are worth it."""
        return "" if any(has_codes(layer) for layer in compressed.modules()) else "nothing is quantized"

    def network(self, model: nn.Module) -> nn.Module:
        """With ONNX's quantizers in the place of ours."""
        try:
            return integer_network(model)
        except NoIntegerForm as error:
            raise Skip(str(error)) from error

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


def _channels_last(value: Any) -> Any:
    """Images and convolution weights as NHWC; anything without four dimensions unchanged."""
    if isinstance(value, Tensor) and value.dim() != 4:
        return value
    return value.to(memory_format=torch.channels_last)


def _onednn_version() -> str:
    found = re.search(r"MKL-DNN v(\S+)", torch.__config__.show())
    return found[1] if found else "unknown"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
