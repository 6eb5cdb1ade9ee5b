"""The interface of a runtime, a way to run whole networks on the CPU.

A new one is a file in this folder with a subclass of `Runtime` that has a name: it is timed wherever `latency.runtimes` of a
scale (config/*.yaml) has its name or a `*`. See `discovery`.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from compressbench.kernels.autotune import Call

if TYPE_CHECKING:
    from torch import Tensor, nn


GROSS = 0.3
"""How far, relative in the 2-norm, the outputs of a model with quantizers may be from its own. They turn the last bit of their
input into a whole step now and then, and two bits in a gate amplify that: only a gross difference counts there."""


class Skip(Exception):
    """This runtime cannot run this model; the reason is recorded and shown."""


class Runtime(ABC):
    """One way to run a network; an instance serves one number of threads.

    The model is as the method left it, in eval mode and with its compressed layers: a runtime with sparse or low-bit
    kernels still sees masks, blocks and bit widths; one that runs a dense library calls `deploy`.
    """

    name: ClassVar[str]
    """How configurations and results call it: a plain string, for it is read without importing the module."""

    arithmetic: ClassVar[str] = "fp32"
    """What its products are computed in."""

    tolerance: ClassVar[float] = 1e-3
    """How far its output may be from the model's, relative in the 2-norm."""

    def objection(self, compressed: "nn.Module") -> str:
        """Why there is no point in timing this model here; empty when there is. Asked before anything is prepared."""
        return ""

    @abstractmethod
    def prepare(self, model: "nn.Module", example: "Tensor") -> Call:
        """Do all that need not be timed, for an input `example` [1, ...]; raise `Skip` where the model cannot run.

        What is returned runs the network once, with `torch.get_num_threads()` threads, and returns its output as
        a tensor or NumPy array, which the harness compares with the model's own before it times.
        """

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What ran, asked after `prepare`: {"library": name and version, "isa": instruction set}.

        Where layers run in different forms, also {"layers": how many in which}.
        """


def last_line(error: Exception) -> str:
    """Of a library's message, which ends with what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
