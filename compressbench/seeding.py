"""Every random number of the suite comes from a generator seeded by (seed, stage, purpose, ...)."""

import hashlib

import torch


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else (not on the process or the Python version)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def make_deterministic(threads: int = 1) -> None:
    """Same machine, seed and thread count -> same bits, for the rest of this process."""
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms(True) without its second of imports
    # the suite reads no memory that it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
