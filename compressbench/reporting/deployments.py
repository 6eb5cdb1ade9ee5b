"""Time at the papers' own sizes: what every method deploys, beside what one would deploy instead."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from compressbench.files import slug, write_text
from compressbench.reporting.columns import Column, View, plain, render
from compressbench.reporting.frames import each
from compressbench.reporting.groups import FAMILIES
from compressbench.reporting.style import FAINT, HEADING, PALETTE, new_figure, save, styled
from compressbench.reporting.text import DASH, listed, markdown_table, number, quantity

if TYPE_CHECKING:
    from compressbench.config import Declaration

KEYS = ["network", "threads", "methods", "setting", "batch", "arithmetic"]
RATIOS = ("speedup", "speedup_any", "speedup_fp32")
TITLE_LENGTH = 34  # of a line beside the figure
SIZES = {224: "images of 224 pixels (ImageNet)", 32: "32 pixels (CIFAR)", 96: "96 pixels (super-resolution)"}


def read(files: Sequence[Path]) -> pd.DataFrame:
    """A row per measured form and process: KEYS, process, runtime, reference, params, macs, stored_bytes, ms, machine, ..."""
    rows = []
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        shared = {name: content[name] for name in ("network", "size", "threads", "process", "rounds")}
        shared["machine"] = content["machine"]["cpu"]
        for form in content["forms"]:
            lists = {name: "+".join(form[name]) for name in ("methods", "represents")}
            rows.append({"reference": False, "published": "", "note": "", **shared, **form, **lists})
    return pd.DataFrame(rows)


def read_dense(files: Sequence[Path]) -> pd.DataFrame:
    """A row per dense network and runtime, of a short trial: network, threads, batch, setting, runtime, arithmetic, ms."""
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [
        {"network": content["network"], "threads": content["threads"], **trial}
        for content in contents
        if content["process"] == 0
        for trial in content["dense"]
    ]
    return pd.DataFrame(rows)


def summarize(measured: pd.DataFrame) -> pd.DataFrame:
    """A row per deployment, in KEYS: medians over processes, and speed-ups with the range over processes.

    Within a process all forms ran interleaved; a speed-up is a ratio of two times of one process. speedup: over the dense
    network in the same arithmetic; speedup_any: over the fastest of any; speedup_fp32: in fp32.
    """
    rows = []
    for (network, threads, batch), part in measured.groupby(["network", "threads", "batch"], sort=False):
        dense = part[(part.methods == "") | part.reference]
        macs = part[part.methods == ""].macs.iloc[0]
        for key, own in part[part.methods != ""].groupby(["methods", "setting", "arithmetic"], sort=False):
            alike = _fastest(dense[dense.arithmetic == key[2]])
            ms, first = own.set_index("process").ms, own.iloc[0]
            names = (
                "represents",
                "reference",
                "params",
                "stored_bytes",
                "macs",
                "runtime",
                "size",
                "published",
                "note",
            )
            rows.append(
                {
                    **dict(zip(KEYS, (network, threads, *key[:2], batch, key[2]), strict=True)),
                    **{name: first[name] for name in (*names, "machine")},
                    "processes": len(own),
                    "rounds": own.rounds.sum(),
                    "dense_ms": alike.ms.median(),
                    "dense_runtime": alike.runtime.mode()[0] if len(alike) else "",
                    "ms": ms.median(),
                    "switch_ms": own.switch_ms.astype(float).median(),
                    "prepare_ms": own.prepare_ms.median(),
                    **_speedup("speedup", alike.ms / ms),
                    **_speedup("speedup_any", _fastest(dense).ms / ms),
                    **_speedup("speedup_fp32", _fastest(dense[dense.arithmetic == "fp32"]).ms / ms),
                    "promised": macs / first.macs,
                }
            )
    table = pd.DataFrame(rows)
    of_macs = np.where(table.promised > 1.001, table.speedup / table.promised, np.nan)
    return table.assign(of_macs=of_macs)


def _fastest(dense: pd.DataFrame) -> pd.DataFrame:
    """Of every process, the fastest dense form; by process."""
    return dense.loc[dense.groupby("process").ms.idxmin()].set_index("process")


def _speedup(name: str, ratios: "pd.Series[float]") -> dict[str, float]:
    return {name: ratios.median(), f"{name}_low": ratios.min(), f"{name}_high": ratios.max()}


def representative(table: pd.DataFrame) -> pd.DataFrame:
    """By method, the row of `summarize` that stands for it, on the least threads."""
    shown = table[table.represents != ""].sort_values("threads", kind="stable")
    shown = shown.assign(method=shown.represents.str.split("+")).explode("method")
    return shown.drop_duplicates("method").set_index("method")


# ---- table


def _ratio(row: Any, name: str) -> str:
    """Bold where dense won in every process."""
    value, low, high = (getattr(row, f"{name}{suffix}") for suffix in ("", "_low", "_high"))
    if np.isnan(value):
        return DASH
    text = f"{number(value)} [{number(low)}, {number(high)}]"
    return f"**{text}**" if high < 1 else text


def _time(row: Any) -> str:
    """Milliseconds per image, where it ran, and for batches, images per second."""
    more = f"; {number(1e3 / row.ms, 0)} images/s" if row.batch > 1 else ""
    return f"{number(row.ms)} ({row.runtime}{more})"


COLUMNS = (
    plain("network"),
    Column("threads", "threads", lambda r: str(r.threads), once=True),
    plain("title", "method"),
    plain("setting"),
    Column("stored", "stored", lambda r: f"{quantity(r.stored_bytes)}B"),
    Column("macs", "MACs", lambda r: quantity(r.macs)),
    Column("dense_ms", "dense ms", lambda r: f"{number(r.dense_ms)} ({r.dense_runtime})" if r.dense_runtime else DASH),
    Column("ms", "ms", _time),
    Column(
        "speedup",
        "speed-up",
        lambda r: _ratio(r, "speedup"),
        note="`speed-up`: over the dense network in the same arithmetic, each on the runtime where it is fastest; in brackets "
        "the lowest and the highest of the processes. In bold: dense was faster in all of them.",
    ),
    Column(
        "speedup_any",
        "over any precision",
        lambda r: _ratio(r, "speedup_any"),
        note="`over any precision`: over the fastest dense network of all, bf16 and 8 bits included.",
    ),
    Column(
        "speedup_fp32",
        "over fp32",
        lambda r: _ratio(r, "speedup_fp32"),
        note="`over fp32`: over the fastest dense network in fp32.",
        shown=lambda view: bool((view.rows.arithmetic != "fp32").any()),
    ),
    Column(
        "of_macs",
        "of the MACs",
        lambda r: f"{number(100 * r.of_macs, 0)} %" if r.of_macs == r.of_macs else DASH,
        note="`of the MACs`: the speed-up over the one that the removed multiply-accumulates promise.",
    ),
    Column(
        "switch_ms",
        "switch ms",
        lambda r: f"{number(r.switch_ms)} ({number(r.prepare_ms, 0)})",
        note="`switch ms`: until another structure is ready in PyTorch; in parentheses, until the runtime has prepared it.",
        shown=lambda view: bool(view.rows.switch_ms.notna().any()),
    ),
    Column(
        "published",
        "published",
        lambda r: r.published or DASH,
        note="`published`: time or throughput that the paper or its authors give.",
        shown=lambda view: bool((view.rows.published != "").any()),
        numeric=False,
    ),
)


def write_deployments(
    files: Sequence[Path], declarations: Mapping[str, "Declaration"], name: str, out: Path
) -> list[Path]:
    """tables/NAME.{csv,md} and figures/NAME.{png,svg} of the files of `compressbench deployment`."""
    table = summarize(read(files))
    shown = _shown(table, declarations)
    csv, page = out / f"tables/{name}.csv", out / f"tables/{name}.md"
    write_text(csv, _quotable(table).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(page, _page(shown, read_dense(files)))
    with styled():
        return [csv, page, *save(_figure(shown), out / "figures", name)]


def _quotable(table: pd.DataFrame) -> pd.DataFrame:
    """With network and setting as prose names them, too: without blanks and parentheses."""
    slugs = {f"{name}_slug": [slug(words) for words in table[name]] for name in ("network", "setting")}
    return table.assign(**slugs)


def _shown(table: pd.DataFrame, declarations: Mapping[str, "Declaration"]) -> pd.DataFrame:
    """The rows of methods, with `title` and `family` of the methods, in the order of the families."""
    order = list(FAMILIES)
    shown = table[~table.reference].copy()
    methods = [sorted(r.methods.split("+"), key=lambda m: (declarations[m].is_baseline, m)) for r in each(shown)]
    shown["title"] = [listed([declarations[m].title for m in own]) for own in methods]
    shown["family"] = [min((declarations[m].family for m in own), key=order.index) for own in methods]
    shown["rank"] = [order.index(family) for family in shown.family]
    shown["baseline"] = [declarations[own[0]].is_baseline for own in methods]
    return shown.sort_values(["rank", "baseline", "title"], kind="stable")


def _page(shown: pd.DataFrame, dense: pd.DataFrame) -> str:
    """A table per family."""
    processes, rounds = shown.processes.min(), shown["rounds"].min()
    parts = [
        "## Time at the papers' own sizes",
        f"Random weights, one image where no batch is named, on {listed(sorted(set(shown.machine)))}; medians over {processes} "
        f"processes with {rounds} rounds in all.",
    ]
    notes: list[str] = []
    for family, rows in shown.groupby("family", sort=False):
        rendered = render(COLUMNS, View(rows))
        parts += [f"### {FAMILIES[str(family)]}", rendered.table]
        parts += [f"{title}: {note}." for title, note in dict.fromkeys(zip(rows.title, rows.note, strict=True)) if note]
        notes += [note for note in rendered.notes if note not in notes]
    return "\n\n".join([*parts, " ".join(notes), *_dense_page(dense)]) + "\n"


def _dense_page(dense: pd.DataFrame) -> list[str]:
    """The dense networks on every runtime."""
    if dense.empty:
        return []
    times = dense.groupby(["network", "threads", "batch", "runtime"], sort=False).ms.min().unstack("runtime")
    times = times[list(dict.fromkeys(dense.runtime))]
    rows = [
        [network, str(threads), str(batch), *(number(value) for value in values)]
        for (network, threads, batch), values in zip(times.index, times.to_numpy(), strict=True)
    ]
    names = [*times.index.names, *times.columns]
    text = markdown_table(pd.DataFrame(rows, columns=names), names[1:])
    return ["### Dense networks on every runtime", "Milliseconds per image, the least of a short trial.", text]


# ---- figure


def _figure(shown: pd.DataFrame) -> Figure:
    """A line per method: a dot per network and setting, over dense in the same arithmetic, and over any precision."""
    rows = shown[shown.threads == shown.threads.min()]
    lines = list(dict.fromkeys(zip(rows.family, rows.title, strict=True)))
    figure = new_figure(
        1.9 + 0.28 * len(lines),
        "Speed-up at the papers' own sizes",
        "a dot for every network and setting; random weights, each network on the runtime where it is fastest",
        "Circles with an edge: the setting that stands for the method. Bars: the range over the processes.",
        width=8.6,
    )
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    headings = {
        "speedup": "over dense in the same arithmetic",
        "speedup_any": "over dense of any precision",
    }
    for axes, (ratio, heading) in zip(panels, headings.items(), strict=True):
        axes.axvline(1, color="#333333", lw=1, ls="--")
        for size, color in zip(SIZES, PALETTE, strict=False):
            _dots(axes, rows[rows["size"] == size], lines, ratio, color)
        for position in range(1, len(lines)):
            if lines[position][0] != lines[position - 1][0]:
                axes.axhline(position - 0.5, color=FAINT, lw=0.8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("speed-up")
        axes.set_title(heading)
    panels[0].set_yticks(range(len(lines)), [fill(title, TITLE_LENGTH) for _, title in lines])
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    handles = [
        panels[0].plot([], [], "o", color=c, markersize=4, label=t)[0]
        for t, c in zip(SIZES.values(), PALETTE, strict=False)
    ]
    figure.suptitle(
        f"{figure.get_suptitle()}\n \n ", x=0.012, ha="left", fontsize=11, fontweight="bold"
    )  # room for the legend
    place = (0.99, 1 - HEADING / figure.get_figheight())
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=place, ncols=len(handles))
    return figure


def _dots(axes: Any, rows: pd.DataFrame, lines: Sequence[tuple[str, str]], ratio: str, color: str) -> None:
    """Spread a little, so that dots of one line do not cover each other."""
    for (family, title), own in rows.groupby(["family", "title"], sort=False):
        middle = lines.index((str(family), str(title)))
        for offset, row in zip(np.linspace(-0.3, 0.3, len(own) + 2)[1:-1], each(own), strict=True):
            y = middle + offset
            axes.plot(
                [getattr(row, f"{ratio}_low"), getattr(row, f"{ratio}_high")], [y, y], color=color, lw=1, alpha=0.6
            )
            edge = {"markeredgecolor": "black", "markersize": 6, "zorder": 3} if row.represents else {"markersize": 3.5}
            axes.plot(getattr(row, ratio), y, "o", color=color, **edge)
