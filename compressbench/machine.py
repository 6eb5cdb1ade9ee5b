"""The machine on which everything runs."""

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

# What fp32, int8, bf16 and binary kernels choose between, in rising order.
ISA_FLAGS = (
    "sse4_2", "avx", "fma", "avx2", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_vpopcntdq", "amx_tile", "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """{"cpu": model, "cores": usable ones, "isa": [flags], "memory_gib", "system"}. Imports nothing heavy."""
    cpuinfo = _cpuinfo()
    flags = set(cpuinfo.get("flags", cpuinfo.get("Features", "")).split())
    return {
        "cpu": cpuinfo.get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def accelerator() -> dict[str, Any] | None:
    """The GPUs that this process has computed on, with the libraries that compute and what keeps their bits; None: on none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpus": torch.cuda.device_count(),
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "deterministic": {
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn": torch.backends.cudnn.deterministic,
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        },
    }


def summary() -> str:
    """Processor, usable cores and instruction sets in words."""
    about = describe()
    return f"{about['cpu']}, {about['cores']} cores, {', '.join(about['isa'])}"


def usable_cores() -> int:
    """The cores this process may run on (a scheduler may have given it fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks up to 32 MiB (its maximum) instead of returning them to the system.

    Otherwise every large activation of an eager network pays page faults: a twentieth of a training step on 28x28 maps, and the
    dense baseline looks up to 1.4x slower than it is. Does nothing where there is no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold, limit = -1, -3, 32 << 20
        mallopt(mmap_threshold, limit)
        mallopt(trim_threshold, 8 * limit)


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
