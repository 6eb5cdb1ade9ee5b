"""What one core can do at most, which the kernels are measured against."""

import ctypes
from collections.abc import Callable

from compressbench.kernels.native import best_isa, kernel

PEAK = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float)
LANES = ctypes.CFUNCTYPE(ctypes.c_int)
CHAINS = 12


def peak_call(iterations: int = 1_000_000) -> tuple[Callable[[], float], int]:
    """(a call that does nothing but multiply-adds, its floating-point operations)."""
    isa = best_isa()
    peak, lanes = kernel("peak", isa, PEAK), kernel("peak_lanes", isa, LANES)()
    return (lambda: float(peak(iterations, 0.5))), 2 * CHAINS * lanes * iterations
