"""Every random number of the suite comes from a generator seeded by (seed, stage, purpose, ...)."""

import hashlib
import os
from collections.abc import Mapping

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else (not on the process or the Python version)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def random_state() -> dict[str, Tensor]:
    """The state of torch's own generators: of the CPU and, where it is in use, of the present GPU."""
    gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
    return {"cpu": torch.get_rng_state()} | gpu


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Go on with the random numbers that came after `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def make_deterministic(threads: int = 1) -> None:
    """Same machine, seed and thread count -> same bits, for the rest of this process."""
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms(True) without its second of imports
    # the suite reads no memory that it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else the sums of cuBLAS depend on its streams
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.set_num_threads(threads)
