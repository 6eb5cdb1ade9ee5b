"""Times published structures, known width by width, beside their dense networks: latency does not ask for training."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import nn

from compressbench import accounting, models
from compressbench.errors import UserError
from compressbench.method import Structure
from compressbench.timing import latency


def measure(
    structures: Mapping[str, Sequence[Structure]], runtimes: Sequence[str] = latency.DEFAULT_RUNTIMES, rounds: int = 30
) -> pd.DataFrame:
    """One row per structure and runtime, one image, one thread, random weights; `structures` by method.

    Columns: method, model, setting, runtime, macs_reduction, params_cut, dense_ms, latency_ms, speedup, low, high.
    Dense and narrow networks run interleaved, see `latency.measure`.
    """
    rows = [
        {"method": method, "model": s.model, "setting": s.setting} | row
        for method, known in structures.items()
        for s in known
        for row in _rows(s, runtimes, rounds)
    ]
    if not rows:
        raise UserError(f"none of {', '.join(structures)} has a published structure to time; name other methods.")
    return pd.DataFrame(rows)


def _rows(structure: Structure, runtimes: Sequence[str], rounds: int) -> list[dict[str, object]]:
    dense, narrow = (_build(structure, widths) for widths in (None, structure.widths))
    counts = [accounting.account(model, structure.shape) for model in (dense, narrow)]
    cuts = {
        "macs_reduction": 1 - counts[1].macs / counts[0].macs,
        "params_cut": 1 - counts[1].params / counts[0].params,
    }
    result = latency.measure(dense, narrow, structure.shape, runtimes, threads=[1], rounds=rounds, warmup=3)
    return [
        {
            "runtime": found["runtime"],
            **cuts,
            "dense_ms": found["dense_ms"]["median"],
            "latency_ms": found["compressed_ms"]["median"],
            "speedup": found["speedup"]["median"],
            "low": found["speedup"]["low"],
            "high": found["speedup"]["high"],
        }
        for found in result["measurements"]
    ]


def _build(structure: Structure, widths: Mapping[str, int] | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.build(structure.architecture, **structure.arguments, inner_widths=widths).eval()  # type: ignore[no-any-return]
