"""Time at the papers' own sizes: what every method deploys, beside what one would deploy instead."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from compressbench.files import write_text
from compressbench.reporting.columns import Column, View, plain, render
from compressbench.reporting.frames import each
from compressbench.reporting.style import PALETTE, new_figure, save, styled
from compressbench.reporting.text import DASH, number, quantity

KEYS = ["network", "threads", "methods", "setting", "arithmetic"]


def _ratio(row: Any, name: str) -> str:
    low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    return f"{number(getattr(row, name))} [{number(low)}, {number(high)}]"


COLUMNS = (
    plain("network"),
    Column("threads", "threads", lambda r: str(r.threads), once=True),
    plain("title", "method"),
    plain("setting"),
    Column("stored", "stored", lambda r: f"{quantity(r.stored_bytes)}B"),
    Column("macs", "MACs", lambda r: quantity(r.macs)),
    Column("dense_ms", "dense ms", lambda r: f"{number(r.dense_ms)} ({r.dense_runtime})"),
    Column("ms", "ms", lambda r: f"{number(r.ms)} ({r.runtime})"),
    Column(
        "speedup",
        "speed-up",
        lambda r: _ratio(r, "speedup"),
        note="`speed-up`: over the dense network in the same arithmetic, each on the runtime where it is fastest; in brackets "
        "the lowest and the highest of the processes.",
    ),
    Column(
        "speedup_any",
        "over any precision",
        lambda r: _ratio(r, "speedup_any"),
        note="`over any precision`: over the fastest dense network of all, bf16 and 8 bits included.",
    ),
    Column(
        "of_macs",
        "of the MACs",
        lambda r: f"{number(100 * r.of_macs, 0)} %" if r.of_macs == r.of_macs else DASH,
        note="`of the MACs`: the speed-up over the one that the removed multiply-accumulates promise.",
    ),
)


def read(files: Sequence[Path]) -> pd.DataFrame:
    """A row per measured form and process: KEYS, process, runtime, reference, params, macs, stored_bytes, ms, machine."""
    rows = []
    for process, file in enumerate(files):
        content = json.loads(file.read_text(encoding="utf-8"))
        shared = {"network": content["network"], "threads": content["threads"], "process": process}
        shared["machine"] = content["machine"]["cpu"]
        for form in content["forms"]:
            rows.append({"reference": False, **shared, **form, "methods": "+".join(form["methods"])})
    return pd.DataFrame(rows)


def summarize(measured: pd.DataFrame) -> pd.DataFrame:
    """A row per deployment, in KEYS: medians over processes, and speed-ups with the range over processes.

    Within a process all forms ran interleaved; a speed-up is a ratio of two times of one process.
    """
    rows = []
    for (network, threads), part in measured.groupby(["network", "threads"], sort=False):
        dense = part[part.methods == ""]
        anyone = part[(part.methods == "") | part.reference].groupby("process").ms.min()
        for key, own in part[part.methods != ""].groupby(["methods", "setting", "arithmetic"], sort=False):
            alike = part[((part.methods == "") | part.reference) & (part.arithmetic == key[2])]
            fastest = alike.loc[alike.groupby("process").ms.idxmin()].set_index("process")
            ms = own.set_index("process").ms
            first = own.iloc[0]
            rows.append(
                {
                    **dict(zip(KEYS, (network, threads, *key), strict=True)),
                    "reference": first.reference,
                    **{name: first[name] for name in ("stored_bytes", "macs", "runtime", "machine")},
                    "dense_ms": fastest.ms.median(),
                    "dense_runtime": fastest.runtime.mode()[0] if len(fastest) else "",
                    "ms": ms.median(),
                    **_speedup("speedup", fastest.ms / ms),
                    **_speedup("speedup_any", anyone / ms),
                    "promised": dense.macs.iloc[0] / first.macs,
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(of_macs=np.where(table.promised > 1.001, table.speedup / table.promised, np.nan))


def _speedup(name: str, ratios: "pd.Series[float]") -> dict[str, float]:
    return {name: ratios.median(), f"{name}_low": ratios.min(), f"{name}_high": ratios.max()}


def write_deployments(files: Sequence[Path], titles: Mapping[str, str], name: str, out: Path) -> list[Path]:
    """tables/NAME.{csv,md} and figures/NAME.{png,svg} of the files of `compressbench deployment`."""
    table = summarize(read(files))
    csv, page = out / f"tables/{name}.csv", out / f"tables/{name}.md"
    write_text(csv, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(page, _page(table, titles))
    with styled():
        return [csv, page, *save(_figure(table, titles), out / "figures", name)]


def _page(table: pd.DataFrame, titles: Mapping[str, str]) -> str:
    shown = table[~table.reference].assign(title=[_titles(m, titles) for m in table[~table.reference].methods])
    text = render(COLUMNS, View(shown))
    note = f"Random weights, one image, on {', '.join(sorted(set(table.machine)))}; medians over processes. "
    return f"## Time at the papers' own sizes\n\n{text.table}\n\n{note}{' '.join(text.notes)}\n"


def _titles(methods: str, titles: Mapping[str, str]) -> str:
    """Of all the methods that deploy the same."""
    return ", ".join(titles.get(method, method) for method in methods.split("+"))


def _figure(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    shown = table[~table.reference & (table.threads == table.threads.min())]
    networks = list(dict.fromkeys(shown.network))
    height = max(3.0, 0.22 * len(shown))
    figure = new_figure(
        height, "Speed-up at the papers' own sizes", "over the fastest dense network in the same arithmetic", ""
    )
    axes = figure.subplots()
    axes.axvline(1, color="#333333", lw=1, ls="--")
    for position, row in enumerate(each(shown)):
        color = PALETTE[networks.index(row.network) % len(PALETTE)]
        axes.plot([row.speedup_low, row.speedup_high], [position] * 2, color=color, lw=2)
        axes.plot(row.speedup, position, "o", color=color, markersize=4)
    axes.set_yticks(range(len(shown)), [f"{r.network}: {_titles(r.methods, titles)}, {r.setting}" for r in each(shown)])
    axes.invert_yaxis()
    axes.set_xscale("log", base=2)
    axes.set_xlabel("speed-up")
    return figure
