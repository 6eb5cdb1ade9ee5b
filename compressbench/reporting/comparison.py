"""The comparison of a group's settings."""

from dataclasses import replace
from typing import Any

import pandas as pd

from compressbench.reporting.columns import (
    METHOD,
    MS,
    SETTING,
    SPEEDUP,
    STORED,
    Column,
    View,
    bullets,
    change,
    measured_on,
    over_processes,
    plain,
    render,
)
from compressbench.reporting.frames import each
from compressbench.reporting.groups import NARROWER, Group, is_number
from compressbench.reporting.summary import level_order
from compressbench.reporting.text import DASH, NOTHING, interval, number, quantity


def _coverage(view: View) -> str:
    runs = f"{int(view.rows.n.sum())} of {view.group.rows_expected} expected runs"
    return f"Bold: methods; plain: baselines. {runs} are in this table."


def _uncertainty(view: View) -> str:
    against = "Dense is the network that all of them start from; it knows fewer classes, so that no change is given."
    if view.group.has_dense:
        reference = view.rows.against.iloc[0] or "none yet"
        against = f"`vs dense` pairs each run with the network of the same seed of: {reference}."
    return f"± is the 95 % t-interval over seeds (n = seeds; n=1 has no interval). {against}"


def _runtime(view: View) -> str:
    return next((runtime for runtime in view.rows.runtime if runtime), "")


def _timing(view: View) -> str:
    if not _runtime(view):
        return "Latency has not been measured."
    return (
        f"`ms` and `speed-up`: one image, 1 thread, {_runtime(view)}: the runtime on which the dense network is fastest; "
        f"in brackets the 95 % interval of the ratio{over_processes(view.rows.processes)}. Above 1 is faster than "
        f"dense.{measured_on(view.rows.cpu)}"
    )


def _shared_latency(view: View) -> str:
    shared = "Settings of a method whose networks have the same layers share one measured latency."
    return shared if _runtime(view) else ""


def _wall_time(view: View) -> str:
    if not is_number(view.rows.seconds.max()):
        return ""
    return (
        "`seconds`: wall time of the method's own stages (synthesis, compression, fine-tuning) on one core, others busy; "
        "without starting Python and training the shared dense network. Images that settings share count once."
    )


def _cuts(row: Any) -> str:
    if row.reference or not is_number(row.macs_reduction):
        return DASH
    time = f"{number(100 * row.time_reduction, 0)} %" if is_number(row.time_reduction) else DASH
    return f"{number(100 * row.macs_reduction, 0)} % → {time}"


def _fastest(row: Any) -> str:
    if not is_number(row.fastest_ms):
        return DASH
    if row.fastest_runtime == row.runtime:
        return "the same"
    return f"{number(row.fastest_ms, 3)} ms, {number(row.best_speedup)}× ({row.fastest_runtime})"


def _equal(row: Any) -> str:
    text = _against_dense(row.equal_speedup, row.equal_low, row.equal_high)
    return f"{text} ({row.arithmetic})" if is_number(row.equal_speedup) else text


def _any(row: Any) -> str:
    return _against_dense(row.any_speedup, row.any_low, row.any_high)


def _against_dense(value: float, low: float, high: float) -> str:
    """A speed-up over another form of the dense network; dense wins where the whole interval is below 1."""
    if not is_number(value):
        return DASH
    return f"{number(value)} [{number(low)}, {number(high)}]{', dense wins' if high < 1 else ''}"


def _dense_wins(view: View) -> str:
    compressed = view.rows[view.rows.any_speedup.notna() & ~view.rows.reference]
    if compressed.empty:
        return ""
    slower = int((compressed.any_high < 1).sum())
    fastest = f"`over any dense`: over the fastest dense network, {compressed.any_dense.iloc[0]}"
    return f"{fastest}; it is faster than {slower} of the {len(compressed)} compressed networks."


def _other_arithmetic(view: View) -> bool:
    return bool((view.rows.equal_speedup.notna() & (view.rows.arithmetic != "fp32")).any())


COMPARISON = (
    replace(METHOD, note=_coverage),
    SETTING,
    Column(
        "quality",
        lambda view: view.group.header,
        lambda r: interval(r.quality, r.quality_low, r.quality_high, r.n),
        note=_uncertainty,
    ),
    Column("change", lambda view: f"vs dense ({view.group.unit})", change, shown=lambda view: view.group.has_dense),
    Column("params", "params", lambda r: quantity(r.params), once=True),
    Column(
        "density",
        "density",
        lambda r: f"{number(100 * r.density, 1)} %" if is_number(r.density) else DASH,
        once=True,
    ),
    Column("macs", "MACs", lambda r: quantity(r.macs), once=True),
    Column(
        "bit_operations",
        "bit-operations",
        lambda r: quantity(r.bit_operations),
        note="Quantized layers are simulated in fp32, whose time is the cost of simulating; onnxruntime_int8 computes what "
        "lies between two quantizers in int8 (latency table: how many layers).",
        shown=lambda view: view.group.quantized,
        once=True,
    ),
    STORED,
    Column(
        "seconds",
        "seconds",
        lambda r: number(r.seconds, 2 if r.seconds < 1 else 1 if r.seconds < 10 else 0),
        note=_wall_time,
    ),
    replace(MS, note=_shared_latency),
    Column(
        "cuts",
        "MACs cut → time cut",
        _cuts,
        note="`MACs cut → time cut`: the share of the dense network's multiply-accumulates that is gone, and of its time, "
        "each network on the runtime where it is fastest.",
        shown=lambda view: bool(NARROWER & set(view.group.families)),
    ),
    replace(SPEEDUP, note=_timing),
    Column(
        "fastest",
        "fastest",
        _fastest,
        note="`fastest`: on the runtime where this network is fastest, and the dense time (of `ms`' runtime) over it.",
        shown=lambda view: bool((view.rows.fastest_runtime != view.rows.runtime).any()),
    ),
    Column(
        "equal",
        "at equal precision",
        _equal,
        note="`at equal precision`: where this network is fastest, over the dense one in the same arithmetic; binary "
        "layers count as fp32. Of int8, over the dense network after a baseline's post-training quantization to 8 bits.",
        shown=_other_arithmetic,
    ),
    Column(
        "any",
        "over any dense",
        _any,
        note=_dense_wins,
        shown=lambda view: bool(view.rows.any_speedup.notna().any()),
    ),
    replace(
        plain("published"),
        note="`published`: model, data set: dense → compressed, as the paper has it; compare the loss, not the value.",
        shown=lambda view: bool((view.rows.published != DASH).any()),
    ),
)
NOTES = ("method", "quality", "speedup", "equal", "any", "seconds", "ms", "bit_operations", "cuts", "published")
"""Columns of the comparison whose notes are read first."""


def comparison(group: Group, summary: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The summary of a group, and its Markdown."""
    heading = f"## {group.title}\n\n"
    if summary.empty:
        return summary, heading + NOTHING
    text = render(COMPARISON, View(_by_level(summary), group), NOTES)
    return summary, f"{heading}{text.table}\n\n{bullets(text.notes)}"


def _by_level(summary: pd.DataFrame) -> pd.DataFrame:
    """References first, then mild to strong compression, best quality first."""
    rank = {level: i for i, level in enumerate(level_order(summary))}
    position = [-1 if r.reference else rank[r.level] for r in each(summary)]
    return summary.assign(position=position).sort_values(
        ["position", "quality"], ascending=[True, False], kind="stable"
    )
