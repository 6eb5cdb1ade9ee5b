"""The tables: complete as CSV, a page as Markdown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from compressbench.files import write_text
from compressbench.reporting.collect import KEYS, Results
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import NARROWER, Group, is_number
from compressbench.reporting.statistics import t_interval
from compressbench.reporting.summary import level_order
from compressbench.reporting.text import DASH, exact, interval, markdown_table, number, quantity

COMPARED = ("params", "weights kept", "MACs", "bit-operations")
BEHIND = (8, 4, 2, 1)  # points
NOTHING = "No results yet."


def write_table(folder: Path, name: str, csv: pd.DataFrame, markdown: str) -> list[Path]:
    """`name`.csv and `name`.md."""
    write_text(folder / f"{name}.csv", csv.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    write_text(folder / f"{name}.md", markdown.rstrip() + "\n")
    return [folder / f"{name}.csv", folder / f"{name}.md"]


def comparison(group: Group, summary: pd.DataFrame, expected: int, measured: int) -> str:
    """The Markdown comparison of a group: columns that are the same for every row are said once, below."""
    heading = f"## {group.title}\n\n"
    if summary.empty:
        return heading + NOTHING
    ordered = _by_level(summary)
    digits = 2
    body = pd.DataFrame(
        {
            "method": [f"**{t}**" if not b else t for t, b in zip(ordered.title, ordered.baseline, strict=True)],
            "setting": list(ordered.label),
            _quality_header(group): _each(
                ordered, lambda r: interval(r.quality, r.quality_low, r.quality_high, r.n, digits)
            ),
            f"vs dense ({group.unit})": _each(ordered, lambda r: _change(r, digits)),
            "params": [quantity(v) for v in ordered.params],
            "weights kept": [f"{number(100 * v, 1)} %" if is_number(v) else DASH for v in ordered.density],
            "MACs": [quantity(v) for v in ordered.macs],
            "bit-operations": [quantity(v) for v in ordered.bit_operations],
            "stored": [f"{quantity(v)}B" if is_number(v) and v >= 1000 else quantity(v) for v in ordered.stored_bytes],
            "seconds": [number(v, 2 if v < 1 else 1 if v < 10 else 0) for v in ordered.seconds],
            "ms": [number(v, 3) for v in ordered.latency_ms],
            "MACs cut → time cut": _each(ordered, _cuts),
            "speed-up": _each(ordered, _speedup),
            "fastest": _each(ordered, _fastest),
            "published": list(ordered.published),
        }
    )
    constant = [c for c in COMPARED if body[c].nunique() == 1]
    if not group.has_dense:
        constant.append(f"vs dense ({group.unit})")
    if not group.quantized and "bit-operations" not in constant:
        constant.append("bit-operations")
    if not NARROWER & set(group.families):
        constant.append("MACs cut → time cut")
    if (body["published"] == DASH).all():
        constant.append("published")
    if (summary.fastest_executor == summary.executor).all():
        constant.append("fastest")
    same = [f"{c} {body[c].iloc[0]}" for c in dict.fromkeys(constant) if c in COMPARED and body[c].nunique() == 1]
    body = body.drop(columns=constant)
    executor = next((e for e in summary.executor if e), "")
    against = (
        f"`vs dense` pairs each run with the network of the same seed of: {summary.against.iloc[0] or 'none yet'}."
    )
    if not group.has_dense:
        against = (
            "Dense is the network that all of them start from; it knows fewer classes, so that no change is given."
        )
    notes = [
        f"Bold: methods; plain: baselines. {measured} of {expected} expected runs are in this table.",
        "± is the 95 % t-interval over seeds (n = seeds; n=1 has no interval). " + against,
        f"`ms` and `speed-up`: one image, 1 thread, {executor}: the executor on which the dense network is fastest; "
        "in brackets the 95 % interval of the ratio. Above 1 is faster than dense."
        if executor
        else "Latency has not been measured.",
    ]
    if is_number(ordered.seconds.max()):
        notes.append(
            "`seconds`: wall time of the method's own stages (synthesis, compression, fine-tuning) on one core, others busy; "
            "without starting Python and training the shared dense network. Images that settings share count once."
        )
    if executor:
        notes.append("Settings of a method whose networks have the same layers share one measured latency.")
    if group.quantized:
        notes.append(
            "Quantized layers are simulated in fp32, whose time is the cost of simulating; onnxruntime_int8 computes what lies "
            "between two quantizers in int8 (latency table: how many layers)."
        )
    if "MACs cut → time cut" in body:
        notes.append(
            "`MACs cut → time cut`: the share of the dense network's multiply-accumulates that is gone, and of its time, "
            "each network on the executor where it is fastest."
        )
    if "published" in body:
        notes.append(
            "`published`: model, data set: dense → compressed, as the paper has it; compare the loss, not the value."
        )
    if "fastest" in body:
        notes.append(
            "`fastest`: on the executor where this network is fastest, and the dense time (of `ms`' executor) over it."
        )
    if same:
        notes.append(f"The same in every row: {', '.join(same)}.")
    return (
        heading
        + markdown_table(body, [c for c in body.columns[2:] if c != "published"])
        + "\n\n"
        + "\n".join(f"- {n}" for n in notes)
    )


def overview(groups: Sequence[Group], summaries: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, str]:
    """One row per method and group, at its first setting; and its Markdown."""
    frames = []
    for group, summary in zip(groups, summaries, strict=True):
        if len(summary):
            main = summary.drop_duplicates("method", keep="first")
            frames.append(main.assign(group=group.kind, dataset=group.dataset, model=group.model, unit=group.unit))
    if not frames:
        return pd.DataFrame(columns=["group", "dataset", "model", "method", "setting"]), f"## Overview\n\n{NOTHING}"
    table = pd.concat(frames, ignore_index=True)
    first = ["group", "dataset", "model", "method", "setting"]
    table = table[first + [c for c in table.columns if c not in first]]
    body = pd.DataFrame(
        {
            "on": [f"{m} / {d}" for m, d in zip(table.model, table.dataset, strict=True)],
            "method": [f"**{t}**" if not b else t for t, b in zip(table.title, table.baseline, strict=True)],
            "setting": list(table.label),
            "quality": _each(table, lambda r: f"{number(r.quality)} {'dB' if r.unit == 'dB' else '%'}"),
            "vs dense": _each(table, lambda r: _change(r, 2)),
            "stored": [f"{quantity(v)}B" if is_number(v) and v >= 1000 else quantity(v) for v in table.stored_bytes],
            "speed-up": _each(table, _best_speedup),
        }
    )
    repeated = body["on"].duplicated()
    body.loc[repeated, "on"] = ""
    note = (
        "One row per method, at the first setting that it declares; bold: methods, plain: baselines. "
        "All settings: the comparison tables. Speed-up, with the 95 % interval: one image, one thread, the dense network "
        "on the executor where it is fastest over this one where this one is fastest (named where it is another)."
    )
    return table, f"## Overview\n\n{markdown_table(body, ['quality', 'vs dense', 'stored', 'speed-up'])}\n\n{note}"


def latency(group: Group, results: Results) -> tuple[pd.DataFrame, str]:
    """Every executor and thread count of what was timed itself, and what was skipped with its reason."""
    own = of_group(results.latency, group)
    own = own[own.own.astype(bool)]
    skipped = of_group(results.skipped, group)
    heading = f"## Latency. {group.title}\n\n"
    if own.empty:
        return own, heading + NOTHING
    keys = ["method", "setting", "executor", "threads", "library", "isa", "layers"]
    table = own.groupby(keys, sort=False, dropna=False, as_index=False).agg(
        dense_ms=("dense_ms", "median"),
        latency_ms=("latency_ms", "median"),
        speedup=("speedup", "median"),
        speedup_low=("low", "min"),
        speedup_high=("high", "max"),
        seeds=("seed", "nunique"),
    )
    body = pd.DataFrame(
        {
            "method": [group.short(m) for m in table.method],
            "setting": [group.label(m, s) for m, s in zip(table.method, table.setting, strict=True)],
            "executor": table.executor,
            "threads": table.threads.astype(str),
            "dense ms": [number(v, 3) for v in table.dense_ms],
            "ms": [number(v, 3) for v in table.latency_ms],
            "speed-up": _each(table, _speedup),
            "layers": table.layers.fillna(""),
        }
    )
    environment = table[["executor", "library", "isa"]].drop_duplicates()
    notes = [f"- {r.executor}: {r.library}, {r.isa}" for r in each(environment)]
    for row in each(skipped.drop_duplicates(["method", "setting", "executor", "reason"])):
        what = f"{group.short(row.method)}, {group.label(row.method, row.setting)}, {row.executor}"
        notes.append(f"- skipped: {what}: {row.reason}")
    return table, heading + markdown_table(body, ["threads", "dense ms", "ms", "speed-up"]) + "\n\n" + "\n".join(notes)


def time_to_quality(group: Group, results: Results) -> tuple[pd.DataFrame, str]:
    """Optimiser steps after which the validation first reaches a quality; and its Markdown.

    One row per (method, setting) that validates while it trains: the length of its training, and the mean over seeds for
    BEHIND points less than the best of the group at its end. Qualities that some seed does not reach have no number.
    """
    heading = f"## Steps to the same quality. {group.title}\n\n"
    history = of_group(results.history, group)
    if "steps" not in history or not history.quality.notna().any():
        return pd.DataFrame(columns=["method", "setting"]), heading + NOTHING
    known = history[history.steps.notna() & history.quality.notna()]
    keys = ["method", "setting", "seed"]
    # the second stage of a method goes on counting where the first one ended
    compressed = known[known.stage == "compress"].groupby(keys).steps.max().rename("before")
    before = known.join(compressed, on=keys).before.where(known.stage == "finetune").fillna(0)
    known = known.assign(total=known.steps + before)
    best = known.groupby(keys).quality.last().groupby(["method", "setting"]).mean().max()
    rows = []
    for key, part in known.groupby(["method", "setting"], sort=False):
        method, setting = map(str, key)
        seeds = part.seed.nunique()
        row: dict[str, Any] = {"method": method, "setting": setting, "series": group.series(method, setting)}
        row |= {"level": group.levels[method, setting].name, "steps": part.groupby("seed").total.max().mean()}
        for points in BEHIND:
            first = part[part.quality >= best - points].groupby("seed").total.min()
            row[f"behind_{points}"] = first.mean() if len(first) == seeds else float("nan")
        rows.append(row)
    table = pd.DataFrame(rows)
    body = pd.DataFrame(
        {
            "method": [group.short(m) for m in table.method],
            "setting": [group.label(m, s) for m, s in zip(table.method, table.setting, strict=True)],
            "all steps": [number(v, 0) for v in table.steps],
        }
        | {f"to {number(best - p, 1)}": [number(v, 0) for v in table[f"behind_{p}"]] for p in BEHIND}
    )
    note = (
        f"Validation {_quality_header(group)}; mean over seeds, a dash where a seed does not reach it. Compare variants of one "
        "method: what prunes while it trains has been a denser network on its way."
    )
    return table, heading + markdown_table(body, list(body.columns[2:])) + "\n\n" + note


def records(groups: Sequence[Group], results: Results) -> tuple[pd.DataFrame, str]:
    """The extra numbers that methods recorded, as means over seeds."""
    rows, texts = [], []
    for group in groups:
        own = of_group(results.records, group)
        for key, part in own.groupby(["method", "setting", "name"], sort=False):
            method, setting, name = map(str, key)
            value = t_interval(part.value)
            rows.append(
                {"dataset": group.dataset, "model": group.model, "method": method, "setting": setting, "name": name}
                | {"mean": value.mean, "low": value.low, "high": value.high, "n": value.n}
            )
            spread = f" ± {exact(float(f'{value.half:.3g}'))}" if value.n > 1 else ""
            texts.append(
                [
                    group.short(method),
                    group.label(method, setting),
                    name.replace("_", " "),
                    f"{exact(value.mean)}{spread} (n={value.n})",
                ]
            )
    columns = ["dataset", "model", "method", "setting", "name", "mean", "low", "high", "n"]
    heading = "## What the methods measured beside quality\n\n"
    if not rows:
        return pd.DataFrame(columns=columns), heading + "No method has recorded anything."
    body = pd.DataFrame(texts, columns=["method", "setting", "number", "mean ± 95 % interval"])
    return pd.DataFrame(rows, columns=columns), heading + markdown_table(body, ["mean ± 95 % interval"])


def facts(table: pd.DataFrame, title: Callable[[str], str]) -> str:
    """Published against recomputed, as Markdown."""
    heading = "## Published against recomputed: what needs no training\n\n"
    if table.empty:
        return heading + "No fact has been recomputed yet."
    counts = table.verdict.value_counts()
    body = pd.DataFrame(
        {
            "method": [title(m) for m in table.method],
            "model": table.model,
            "setting": table.setting,
            "quantity": table.metric,
            "published": table.published.replace("", DASH),
            "recomputed": [exact(v) for v in table.recomputed],
            "difference": [exact(v) for v in table.difference],
            "": table.verdict.replace("differs", "**differs**"),
            "source": table.source.replace("", DASH),
        }
    )
    note = (
        f"{counts.get('ok', 0)} agree to the last printed digit, {counts.get('differs', 0)} differ, "
        f"{counts.get('not published', 0)} have no published value."
    )
    return heading + note + "\n\n" + markdown_table(body, ["published", "recomputed", "difference"])


def missing(table: pd.DataFrame, title: Callable[[str], str]) -> str:
    """Which expected results are not there, one line per run."""
    heading = "## Missing results\n\n"
    if table.empty:
        return heading + "Nothing is missing."
    lines = []
    for key, part in table.groupby(KEYS, sort=False):
        dataset, model, method, setting, seed = key
        what = "; ".join(f"{r.result} ({r.reason})" for r in each(part))
        lines.append(f"- {title(str(method))}, `{dataset}/{model}/{method}/{setting}/seed{seed}`: {what}")
    return (
        heading
        + f"{len(table)} expected files of {len(lines)} runs; the tables and figures do without them.\n\n"
        + "\n".join(lines)
    )


def _each(table: pd.DataFrame, text: Callable[..., str]) -> list[str]:
    return [text(row) for row in each(table)]


def _by_level(summary: pd.DataFrame) -> pd.DataFrame:
    """References first, then mild to strong compression, best quality first."""
    rank = {level: i for i, level in enumerate(level_order(summary))}
    position = [-1 if r.reference else rank[r.level] for r in each(summary)]
    return summary.assign(position=position).sort_values(
        ["position", "quality"], ascending=[True, False], kind="stable"
    )


def _quality_header(group: Group) -> str:
    return "PSNR on Y, dB" if group.metric == "psnr" else "top-1, %"


def _change(row: Any, digits: int) -> str:
    """The paired change; a dash for the dense network itself."""
    if row.series == row.against or not is_number(row.change):
        return DASH
    half = (row.change_high - row.change_low) / 2
    spread = f" ± {number(half, digits)}" if is_number(half) else ""
    return f"{number(row.change, digits, sign=True)}{spread}"


def _speedup(row: Any) -> str:
    if not is_number(row.speedup):
        return DASH
    return f"{number(row.speedup)} [{number(row.speedup_low)}, {number(row.speedup_high)}]"


def _cuts(row: Any) -> str:
    if row.reference or not is_number(row.macs_cut):
        return DASH
    time = f"{number(100 * row.time_cut, 0)} %" if is_number(row.time_cut) else DASH
    return f"{number(100 * row.macs_cut, 0)} % → {time}"


def _best_speedup(row: Any) -> str:
    if not is_number(row.best_speedup):
        return DASH
    where = "" if row.fastest_executor == row.executor else f", {row.fastest_executor}"
    return f"{number(row.best_speedup)} [{number(row.best_low)}, {number(row.best_high)}]{where}"


def _fastest(row: Any) -> str:
    if not is_number(row.fastest_ms):
        return DASH
    if row.fastest_executor == row.executor:
        return "the same"
    return f"{number(row.fastest_ms, 3)} ms, {number(row.best_speedup)}× ({row.fastest_executor})"
