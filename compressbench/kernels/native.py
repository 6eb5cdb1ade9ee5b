"""The door to the C++ kernels: loads the library, checks every size and index, and hands over pointers."""

import ctypes
import functools
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from compressbench.errors import UserError


class Isa(IntEnum):
    """The builds of the library, in rising order of speed, after the replacement used where it could not be built."""

    TORCH = -1
    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2


CONDITION = ctypes.CFUNCTYPE(ctypes.c_int)
RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32)
"""A kernel that takes part in programs: (its step, threads)."""


class Step(ctypes.Structure):
    """`cb_step` of isa.h: one layer of a program."""

    _fields_ = (
        ("run", RUN),
        *((name, ctypes.c_void_p) for name in ("layer", "x", "workspace", "residual", "y")),
        ("batch", ctypes.c_int32),
    )

    @classmethod
    def on(
        cls,
        run: Callable[..., None],
        layer: ctypes.Structure,
        x: Tensor,
        out: Tensor,
        workspace: Tensor | None = None,
        residual: Tensor | None = None,
        owner: object = None,
    ) -> Self:
        """A step on these tensors, which live as long as it does, and its `owner`, to whose memory `layer` points.

        run: the kernel, `kernel(name, isa)`.
        """
        pointers = [None if t is None else t.data_ptr() for t in (x, workspace, residual, out)]
        step = cls(run, ctypes.addressof(layer), *pointers, x.shape[0])
        step.kept = (layer, x, workspace, residual, out, owner)
        return step


def is_built() -> bool:
    """Whether the library was compiled when the package was installed."""
    return _file() is not None


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library; UserError when it was not built. Torch is loaded before it, so that both share one OpenMP."""
    file = _file()
    if file is None:
        raise UserError(
            "the CPU kernels are not built: install a C++ compiler (such as g++) and install compressbench again."
        )
    return ctypes.CDLL(str(file))


@functools.cache
def kernel(name: str, isa: Isa, prototype: type = RUN) -> Callable[..., Any]:
    """The C function `KERNEL(..., name)` of isa.h in this build.

    Args:
        prototype: its result and arguments, as `ctypes.CFUNCTYPE(result, *arguments)`.

    Raises:
        UserError: the library was not built, or it is older than the kernel.
    """
    symbol = _symbol(name, isa)
    if not hasattr(library(), symbol):
        raise UserError(f"the built CPU kernels do not have {symbol}: install compressbench again.")
    function: Callable[..., Any] = prototype((symbol, library()))
    return function


def program(steps: Sequence[Step]) -> Callable[[], None]:
    """A call that runs layers one after the other, with `torch.get_num_threads()` threads, without Python in between."""
    run, array, kept = library().cb_run, (Step * len(steps))(*steps), list(steps)
    return lambda: run(array, len(kept), torch.get_num_threads())


def best_isa(name: str = "") -> Isa:
    """The fastest build that this processor runs, of the kernel `name` if it asks for more; TORCH without the library."""
    return max((isa for isa in Isa if isa is not Isa.TORCH and _runs(isa, name)), default=Isa.TORCH)


def _runs(isa: Isa, name: str) -> bool:
    if not is_built() or not kernel("runs", isa, CONDITION)():
        return False
    asks_more = hasattr(library(), _symbol(f"{name}_runs", isa))
    return not asks_more or bool(kernel(f"{name}_runs", isa, CONDITION)())


def _symbol(name: str, isa: Isa) -> str:
    return f"cb_{name}_{isa.name.lower()}"


def runnable(isa: Isa | None, best: Isa) -> Isa:
    """`isa`, or the best; ValueError where this processor lacks it."""
    if isa is not None and isa > best:
        raise ValueError(f"the {Isa(isa).name} build does not run here: the best is {best.name}")
    return best if isa is None else Isa(isa)


def _file() -> Path | None:
    return next(iter(sorted(Path(__file__).parent.glob("_native*.so"))), None)


def output_size(height: int, width: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """(height, width) of the output. ValueError where the geometry is none of ours, or the kernel does not fit."""
    if kernel < 1 or stride < 1 or not 0 <= padding < kernel:
        raise ValueError(f"kernel {kernel}, stride {stride}, padding {padding} is no convolution of ours")
    out_height, out_width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    if min(height, width, out_height, out_width) < 1:
        raise ValueError(f"a {kernel}x{kernel} kernel does not fit an image of {height}x{width}")
    return out_height, out_width


def check_tensor(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
    """ValueError unless it is of this type and shape, on the CPU, and contiguous."""
    if tensor.shape != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, not {tuple(tensor.shape)}")
    if tensor.dtype != dtype or tensor.device.type != "cpu":
        wanted = str(dtype).removeprefix("torch.")
        raise ValueError(f"{name} must be {wanted} on the CPU, not {tensor.dtype} on {tensor.device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous")


def output_for(x: Tensor, input_shape: Sequence[int], output_shape: Sequence[int], out: Tensor | None) -> Tensor:
    """Where the result on x [batch, *input_shape] goes: `out`, or a new tensor. ValueError where x or `out` does not fit."""
    shape = (x.shape[0], *output_shape)
    check_tensor("x", x, (x.shape[0], *input_shape))
    if out is None:
        return torch.empty(shape)
    check_tensor("out", out, shape)
    return out


def per_channel(name: str, values: Tensor | None, channels: int, default: float) -> Tensor:
    """Values of every output channel as the kernels read them: float32 [channels], `default` where there are none."""
    if values is None:
        return torch.full((channels,), default)
    if values.shape != (channels,):
        raise ValueError(f"{name} must have {channels} entries, not {tuple(values.shape)}")
    return values.detach().float().contiguous()


def label(isa: Isa) -> str:
    """What ran, for results."""
    return "none: slow PyTorch code, for want of a C++ compiler" if isa is Isa.TORCH else isa.name
