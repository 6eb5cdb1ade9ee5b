"""PyTorch in eager mode."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.kernels import onednn
from compressbench.kernels.autotune import Call
from compressbench.layers.deployment import deploy
from compressbench.runtimes.base import Runtime


class TorchEager(Runtime):
    """PyTorch as people run it, with batch norms folded and channels_last. Records the kernels that really ran."""

    name = "torch_eager"

    def __init__(self) -> None:
        self.implementations: set[str] = set()

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Deploy, compile, and record what a run executes."""
        example = _channels_last(example)
        network = self.compile(_channels_last(deploy(model)), example)

        def call() -> Tensor:
            return network(example)

        self.implementations |= onednn.implementations(call)
        return call

    def compile(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """The function to time; eager mode times the module itself."""
        return model

    def describe(self) -> dict[str, str]:
        """oneDNN's own words on its kernels, or PyTorch's instruction set where it chose native ones."""
        if not self.implementations:
            return {"library": f"torch {torch.__version__} native", "isa": torch.backends.cpu.get_cpu_capability()}
        kernels, sets = zip(*(name.split(":", 1) for name in sorted(self.implementations)), strict=True)
        library = f"torch {torch.__version__} oneDNN {onednn.version()} {'+'.join(sorted(set(kernels)))}"
        return {"library": library, "isa": "+".join(sorted(set(sets))).upper()}


def _channels_last(value: Any) -> Any:
    """Images and convolution weights as NHWC; anything without four dimensions unchanged."""
    if isinstance(value, Tensor) and value.dim() != 4:
        return value
    return value.to(memory_format=torch.channels_last)
