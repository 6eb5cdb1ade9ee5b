"""What one would run instead of a compressed network: the dense one, in every precision in which it was timed."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from compressbench.reporting.statistics import t_interval
from compressbench.reporting.text import number

if TYPE_CHECKING:
    from compressbench.reporting.groups import Group

UNMEASURED = "bf16"
"""The arithmetic in which networks are timed, but not evaluated: no compressed one counts there."""
EIGHT_BITS = (8.0, 8.0)
COLUMNS = ["arithmetic", "ms", "runtime", "words"]


def dense_forms(single: pd.DataFrame, runs: pd.DataFrame, dense: pd.DataFrame, group: "Group") -> pd.DataFrame:
    """arithmetic -> the fastest dense network in it: `ms`, `runtime`, and `words` with what it costs in quality.

    In fp32 and bf16 that is the dense network itself, timed for its own sake where it runs here (some runtimes serve one kind
    of compression only); in int8 the dense network after the post-training quantization of a baseline, 8 bits throughout.

    Args:
        single: the group's measurements with one thread. runs: its runs; `dense`: those of the dense reference, by seed.
    """
    dense_ms = single.groupby("runtime").dense_ms.median()
    rows = [_plain(own, dense_ms) for _, own in _float(single, group).groupby("arithmetic", sort=False)]
    rows += _integer(single, runs, dense, group)
    return pd.DataFrame(rows, columns=COLUMNS).set_index("arithmetic").astype({"ms": float})


def _float(single: pd.DataFrame, group: "Group") -> pd.DataFrame:
    """Measurements of the dense network; older ones do not name their arithmetic, which was fp32 if anything else ran."""
    known = single.assign(arithmetic=single.arithmetic.fillna("fp32"))
    known = known[known.arithmetic.isin(["fp32", UNMEASURED])]
    own = known[known.method.map(group.is_dense).astype(bool)]
    return known if own.empty else own


def _plain(own: pd.DataFrame, dense_ms: "pd.Series[float]") -> dict[str, Any]:
    """The runtime is that of the dense network's own run, the time the median over all runs, as it is of every runtime."""
    arithmetic, runtime = own.arithmetic.iloc[0], str(own.groupby("runtime").dense_ms.median().idxmin())
    cost = ", whose quality is not measured" if arithmetic == UNMEASURED else ""
    words = f"{arithmetic} on {runtime}{cost}"
    return {"arithmetic": arithmetic, "ms": dense_ms[runtime], "runtime": runtime, "words": words}


def _integer(single: pd.DataFrame, runs: pd.DataFrame, dense: pd.DataFrame, group: "Group") -> list[dict[str, Any]]:
    """The fastest of the baselines that leave the network as it is but for 8 bits; none where none runs here."""
    keys = [key for key in group.levels if _is_eight_bits(group, *key)]
    timed = single[single.arithmetic == "int8"].set_index(["method", "setting"])
    times = timed[timed.index.isin(keys)].groupby(["method", "setting", "runtime"]).latency_ms.median()
    if times.empty:
        return []
    best: Any = times.idxmin()
    method, setting, runtime = best
    own = runs[(runs.method == method) & (runs.setting == setting)]
    change = t_interval(own.quality - own.seed.map(dense.quality)).mean
    cost = f", {number(change, sign=True)} {group.unit}" if len(dense) else ""
    words = f"int8 on {runtime} ({group.short(method)}, {group.label(method, setting)}{cost})"
    return [{"arithmetic": "int8", "ms": times.min(), "runtime": runtime, "words": words}]


def _is_eight_bits(group: "Group", method: str, setting: str) -> bool:
    declared, level = group.declarations[method], group.levels[method, setting]
    quantizes = declared.is_baseline and declared.family == "quantization"
    return quantizes and (level.kind, level.values) == ("bits", EIGHT_BITS)
