"""The file formats of exported networks."""

import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.files import in_memory
from compressbench.runtimes.base import last_line
from compressbench.runtimes.onnx_export import export

Run = Callable[[Tensor], Tensor]


class Format(ABC):
    """One kind of file: how a network is written, and how the file is run."""

    suffix: ClassVar[str]

    @abstractmethod
    def write(self, network: nn.Module, images: Tensor, free: Mapping[int, str]) -> bytes:
        """The file of a network in evaluation mode.

        Args:
            images: [N, C, H, W] that it reads, N at least 2.
            free: the dimensions that may have other sizes -> their names.

        Raises:
            UserError: the network has no graph.
        """

    @abstractmethod
    def load(self, content: bytes) -> Run:
        """What runs the network of a file: images -> outputs."""


class Onnx(Format):
    """ONNX: quantized layers between QuantizeLinear and DequantizeLinear, int8 weights."""

    suffix = ".onnx"

    def write(self, network: nn.Module, images: Tensor, free: Mapping[int, str]) -> bytes:
        try:
            return export(network, images[:1], free)
        except RuntimeError as error:
            raise UserError(last_line(error)) from error

    def load(self, content: bytes) -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"input": images.numpy()})[0])


class TorchExport(Format):
    """PyTorch's ExportedProgram: a graph of PyTorch's operators, which `torch.export.load` reads without this package."""

    suffix = ".pt2"

    def write(self, network: nn.Module, images: Tensor, free: Mapping[int, str]) -> bytes:
        shapes = (dict.fromkeys(free, torch.export.Dim.DYNAMIC),)
        log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
        level = log.level
        log.setLevel(logging.CRITICAL)  # what it cannot follow is in the exception, without the whole graph
        try:
            with torch.no_grad():
                program = torch.export.export(network, (images[:2],), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # of many kinds, for what the exporter comes upon in a network's code
            raise UserError(f"no graph: {str(error).splitlines()[0] or type(error).__name__}") from error
        finally:
            log.setLevel(level)
        return in_memory(lambda file: torch.export.save(program, file))

    def load(self, content: bytes) -> Run:
        return torch.export.load(io.BytesIO(content)).module()  # type: ignore[no-any-return]


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch": TorchExport()}
