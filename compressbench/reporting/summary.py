"""One row per (method, setting) of a group: means over seeds, intervals, latency."""

from typing import Any, NamedTuple

import pandas as pd

from compressbench.reporting.collect import AT, Results
from compressbench.reporting.frames import of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.published import published_quality
from compressbench.reporting.readers import COSTS
from compressbench.reporting.statistics import t_interval


class Reference(NamedTuple):
    """What the settings of a group are compared with.

    label: of the dense network; empty without one.
    runs: of the dense network, by seed.
    runtime: the one on which the dense network is fastest.
    dense_ms: of one thread, by runtime.
    """

    label: str
    runs: pd.DataFrame
    runtime: str
    dense_ms: pd.Series


def summarize(results: Results, group: Group, published: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the group's comparison table, unrounded; settings without any result are left out.

    `change_*` is paired by seed with the dense reference. `density` is kept weights over the dense network's weights,
    `macs_reduction` the removed share of its multiply-accumulates, `time_reduction` that of its latency, each network on its
    fastest runtime.
    """
    runs, latency = of_group(results.runs, group), of_group(results.latency, group)
    single = latency[latency.threads == 1]
    dense_ms = single.groupby("runtime").dense_ms.median()
    reference = Reference(*_dense(runs, group), _reference_runtime(single, group), dense_ms)
    rows = []
    for method, setting in ((m, s) for m, settings in group.settings.items() for s in settings):
        own = runs[(runs.method == method) & (runs.setting == setting)]
        if own.empty:
            continue
        times = _latency(single[(single.method == method) & (single.setting == setting)], reference)
        rows.append(
            _identity(group, method, setting)
            | _quality(own, reference)
            | _costs(own, reference)
            | {"time_reduction": 1 - 1 / times["best_speedup"]}
            | times
            | {"published": published_quality(published, group, method, setting)}
        )
    return pd.DataFrame(rows)


def level_order(table: pd.DataFrame) -> list[str]:
    """The levels of a summary, mild compression first: by stored bytes, operating points of one model by their arithmetic."""
    points = table[~table.reference] if len(table) else table
    if points.empty:
        return []
    cost = "macs" if points.setting.str.contains(AT).any() else "stored_bytes"
    return list(points.groupby("level")[cost].mean().sort_values(ascending=False, kind="stable").index)


def main_variants(table: pd.DataFrame) -> pd.DataFrame:
    """Of every method its first series, and those that go through as many levels: what it is, without controls run at one."""
    levels = table.groupby(["method", "series"])["level"].transform("nunique")
    first = table.series == table.groupby("method").series.transform("first")
    return table[first | (levels == levels.groupby(table.method).transform("max"))]


def _identity(group: Group, method: str, setting: str) -> dict[str, Any]:
    return {
        "method": method,
        "setting": setting,
        "title": group.short(method),
        "label": group.label(method, setting),
        "series": group.series(method, setting),
        "level": group.levels[method, setting].name,
        "baseline": group.is_baseline(method),
        "reference": group.is_reference(method),
    }


def _quality(own: pd.DataFrame, reference: Reference) -> dict[str, Any]:
    quality = t_interval(own.quality)
    change = t_interval(own.quality - own.seed.map(reference.runs.quality))
    return {
        "quality": quality.mean,
        "quality_low": quality.low,
        "quality_high": quality.high,
        "ssim": own.ssim.mean(),
        "n": quality.n,
        "against": reference.label,
        "change": change.mean,
        "change_low": change.low,
        "change_high": change.high,
    }


def _costs(own: pd.DataFrame, reference: Reference) -> dict[str, float]:
    costs = {name: own[name].mean() for name in ("seconds", *COSTS)}
    total = reference.runs.weights.mean() if len(reference.runs) else costs["weights"]
    return costs | {
        "density": costs["kept_weights"] / total if total else float("nan"),
        "macs_reduction": 1 - costs["macs"] / reference.runs.macs.mean() if len(reference.runs) else float("nan"),
    }


def _dense(runs: pd.DataFrame, group: Group) -> tuple[str, pd.DataFrame]:
    """(label, runs by seed) of the dense network to compare with: the largest, and the better one where it has two budgets."""
    dense = runs[runs.method.map(group.is_dense).astype(bool)]
    dense = dense[dense.macs.isna() | (dense.macs == dense.macs.max())]
    if dense.empty:
        return "", dense.set_index("seed")
    best: Any = dense.groupby(["method", "setting"], sort=False).quality.mean().idxmax()
    method, setting = best
    return group.series(method, setting), dense[(dense.method == method) & (dense.setting == setting)].set_index("seed")


def _reference_runtime(single: pd.DataFrame, group: Group) -> str:
    """The runtime on which the dense network is fastest: a fair dense time is the best one.

    Of those that ran the dense network for its own sake: some serve one kind of compression only.
    """
    general = single[single.method.map(group.is_dense).astype(bool)]
    times = (single if general.empty else general).groupby("runtime").dense_ms.median()
    return str(times.idxmin()) if len(times) else ""


def _latency(own: pd.DataFrame, reference: Reference) -> dict[str, Any]:
    """Times of one thread on the reference's runtime, and on the one where the compressed model is fastest.

    Over several measured seeds: the median of the medians, and the envelope of the intervals.
    """
    times = own.groupby("runtime").agg(
        dense_ms=("dense_ms", "median"),
        latency_ms=("latency_ms", "median"),
        speedup=("speedup", "median"),
        speedup_low=("low", "min"),
        speedup_high=("high", "max"),
    )
    same = {name: times[name].get(reference.runtime, float("nan")) for name in times.columns}
    return {"runtime": reference.runtime, **same} | _fastest(times, reference)


def _fastest(times: pd.DataFrame, reference: Reference) -> dict[str, Any]:
    """The compressed model on the runtime where it is fastest, over dense where that is.

    `best_*`: the interleaved ratio there, times that of the dense network's times on the two runtimes, medians over all runs
    of the group (two runtimes never run interleaved).
    """
    if times.empty:
        missing = dict.fromkeys(("fastest_ms", "best_speedup", "best_low", "best_high"), float("nan"))
        return {"fastest_runtime": ""} | missing
    factors = reference.dense_ms[reference.runtime] / reference.dense_ms
    fastest = times.loc[str((times.speedup * factors[times.index]).idxmax())]
    factor = factors[fastest.name]
    return {
        "fastest_runtime": str(fastest.name),
        "fastest_ms": fastest.latency_ms,
        "best_speedup": factor * fastest.speedup,
        "best_low": factor * fastest.speedup_low,
        "best_high": factor * fastest.speedup_high,
    }
