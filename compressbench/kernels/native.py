"""The door to the C++ kernels: loads the library, checks every size and index, and hands over pointers."""

import ctypes
import functools
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from compressbench.errors import UserError


class Isa(IntEnum):
    """The builds of the library, in rising order of speed, after the replacement used where it could not be built."""

    TORCH = -1
    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2


class Convolution(ctypes.Structure):
    """`cb_convolution` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("c_in", "height", "width", "c_out", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding", "n")),
        *((name, ctypes.c_void_p) for name in ("indptr", "offsets", "weights", "bias")),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        ("vectors", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("even_rows", ctypes.c_int32),
    )


class Depthwise(ctypes.Structure):
    """`cb_depthwise` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("channels", "height", "width", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding")),
        *((name, ctypes.c_void_p) for name in ("weights", "bias")),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    )


class Mean(ctypes.Structure):
    """`cb_mean` of kernels.h."""

    _fields_ = (("channels", ctypes.c_int32), ("pixels", ctypes.c_int32))


class Step(ctypes.Structure):
    """`cb_step` of kernels.h."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("batch", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("layer", "x", "workspace", "residual", "y")),
    )

    @classmethod
    def on(
        cls,
        kind: int,
        layer: ctypes.Structure,
        x: Tensor,
        out: Tensor,
        workspace: Tensor | None = None,
        residual: Tensor | None = None,
        owner: object = None,
    ) -> Self:
        """A step on these tensors, which live as long as it does, and its `owner`, to whose memory `layer` points."""
        pointers = [None if t is None else t.data_ptr() for t in (x, workspace, residual, out)]
        step = cls(kind, x.shape[0], ctypes.addressof(layer), *pointers)
        step.kept = (layer, x, workspace, residual, out, owner)
        return step


class Binary(ctypes.Structure):
    """`cb_binary` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("c_in", "height", "width", "c_out", "out_height", "out_width")),
        *((name, ctypes.c_int32) for name in ("kernel", "stride", "padding")),
        *((name, ctypes.c_void_p) for name in ("weights", "base", "row_class", "column_class")),
        ("column_classes", ctypes.c_int32),
        ("factor", ctypes.c_int32),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


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
    lib = ctypes.CDLL(str(file))
    lib.cb_workspace.restype = ctypes.c_int64
    lib.cb_workspace.argtypes = [ctypes.POINTER(Convolution)]
    lib.cb_run.restype = None
    lib.cb_run.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
    lib.cb_spin.restype = ctypes.c_float
    lib.cb_spin.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_float]
    lib.cb_depthwise_workspace.restype = ctypes.c_int64
    lib.cb_depthwise_workspace.argtypes = [ctypes.POINTER(Depthwise), ctypes.c_int32]
    lib.cb_convolve_binary.restype = None
    lib.cb_convolve_binary.argtypes = [
        ctypes.c_int, ctypes.POINTER(Binary), *[ctypes.c_void_p] * 3, ctypes.c_int32, ctypes.c_int32,
    ]  # fmt: skip
    return lib


def program(isa: Isa, steps: Sequence[Step]) -> Callable[[], None]:
    """A call that runs layers one after the other, with `torch.get_num_threads()` threads, without Python in between."""
    run, array, kept = library().cb_run, (Step * len(steps))(*steps), list(steps)
    return lambda: run(isa, array, len(kept), torch.get_num_threads())


def best_isa() -> Isa:
    """The fastest build that this processor runs; TORCH without the library."""
    return Isa(library().cb_best_isa()) if is_built() else Isa.TORCH


def best_binary_isa() -> Isa:
    """The fastest build of the binary kernels that this processor runs; TORCH without the library."""
    return Isa(library().cb_best_binary_isa()) if is_built() else Isa.TORCH


def peak_call(iterations: int = 1_000_000) -> tuple[Callable[[], float], int]:
    """(a call that does nothing but multiply-adds, its floating-point operations): what one core can do at most."""
    lib, isa = library(), best_isa()
    return (lambda: float(lib.cb_spin(isa, iterations, 0.5))), 2 * 12 * lib.cb_lanes(isa) * iterations


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


def check_tensor(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """ValueError unless it is float32 on the CPU, of this shape, and contiguous."""
    if tensor.shape != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, not {tuple(tensor.shape)}")
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(f"{name} must be float32 on the CPU, not {tensor.dtype} on {tensor.device}")
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
