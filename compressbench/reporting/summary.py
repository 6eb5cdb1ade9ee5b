"""One row per (method, setting) of a group: means over seeds, intervals, latency."""

from typing import Any, NamedTuple

import pandas as pd

from compressbench.reporting.alternatives import UNMEASURED, dense_forms
from compressbench.reporting.collect import AT, Results
from compressbench.reporting.frames import of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.published import published_quality
from compressbench.reporting.readers import COSTS
from compressbench.reporting.statistics import t_interval

SPEEDUP = ("speedup", "low", "high")


class Reference(NamedTuple):
    """What the settings of a group are compared with.

    label: of the dense network; empty without one.
    runs: of the dense network, by seed.
    runtime: the one on which the dense network is fastest in fp32.
    dense_ms: of one thread, by runtime.
    dense: the fastest dense network of every precision, see `alternatives.dense_forms`.
    """

    label: str
    runs: pd.DataFrame
    runtime: str
    dense_ms: pd.Series
    dense: pd.DataFrame


def summarize(results: Results, group: Group, published: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the group's comparison table, unrounded; settings without any result are left out.

    `change_*` is paired by seed with the dense reference. `density` is kept weights over the dense network's weights,
    `macs_reduction` the removed share of its multiply-accumulates, `time_reduction` that of its latency, each network on its
    fastest runtime. Speed-ups are over the dense network on the runtime where it is fastest: `speedup` on that runtime,
    `best_*` in fp32, `equal_*` in the arithmetic of the compressed one, `any_*` in whatever is fastest (`any_dense` in words);
    the latter three from the runtime where the compressed network is fastest.
    """
    runs, latency = of_group(results.runs, group), of_group(results.latency, group)
    single = latency[latency.threads == 1]
    label, dense = _dense(runs, group)
    forms = dense_forms(single, runs, dense, group)
    dense_ms = single.groupby("runtime").dense_ms.median()
    reference = Reference(label, dense, str(forms.runtime.get("fp32", "")), dense_ms, forms)
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


def _latency(own: pd.DataFrame, reference: Reference) -> dict[str, Any]:
    """Times of one thread on the reference's runtime, and on the one where the compressed model is fastest.

    Over several measured seeds: the median of the medians, and the envelope of the intervals.
    """
    times = own.groupby("runtime").agg(
        arithmetic=("arithmetic", "first"),
        processes=("processes", "min"),
        cpu=("cpu", "first"),
        dense_ms=("dense_ms", "median"),
        latency_ms=("latency_ms", "median"),
        speedup=("speedup", "median"),
        speedup_low=("low", "min"),
        speedup_high=("high", "max"),
    )
    names = times.columns.drop("arithmetic")
    same = {name: times[name].get(reference.runtime, float("nan")) for name in names}
    return {"runtime": reference.runtime, **same} | _fastest(times[times.arithmetic != UNMEASURED], reference)


def _fastest(times: pd.DataFrame, reference: Reference) -> dict[str, Any]:
    """The compressed model on the runtime where it is fastest, over the dense one where that is.

    The interleaved ratio there, times that of the dense network's times on the two runtimes, medians over all runs
    of the group (two runtimes never run interleaved).
    """
    if times.empty or not reference.runtime:
        unknown = {f"{kind}_{name}": float("nan") for kind in ("best", "equal", "any") for name in SPEEDUP}
        return {"fastest_runtime": "", "fastest_ms": float("nan"), "arithmetic": "", "any_dense": ""} | unknown
    base = reference.dense_ms[reference.runtime]
    fastest: Any = times.loc[str((times.speedup * (base / reference.dense_ms)[times.index]).idxmax())]
    own_dense = reference.dense_ms[fastest.name]
    any_dense: Any = reference.dense.sort_values("ms").iloc[0]
    equal = float(reference.dense.ms.get(fastest.arithmetic, float("nan")))
    return {
        "fastest_runtime": str(fastest.name),
        "fastest_ms": fastest.latency_ms,
        "arithmetic": fastest.arithmetic,
        **_over("best", base / own_dense, fastest),
        **_over("equal", equal / own_dense, fastest),
        **_over("any", any_dense.ms / own_dense, fastest),
        "any_dense": any_dense.words,
    }


def _over(kind: str, factor: float, fastest: Any) -> dict[str, float]:
    """The speed-up of `fastest` over a dense network that takes `factor` times as long as the one beside it."""
    values = (fastest.speedup, fastest.speedup_low, fastest.speedup_high)
    return {f"{kind}_{name}": factor * value for name, value in zip(SPEEDUP, values, strict=True)}
