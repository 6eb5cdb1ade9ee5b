"""The overview: at every level a method beside its strongest baseline and its strongest control."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from compressbench.reporting.columns import STORED, Column, View, change, plain, render
from compressbench.reporting.deployments import representative
from compressbench.reporting.frames import each
from compressbench.reporting.groups import Group, is_number
from compressbench.reporting.readers import COSTS
from compressbench.reporting.summary import level_order
from compressbench.reporting.text import DASH, NOTHING, number

DEPLOYED = ["network", "network_setting", "speedup", "speedup_low", "speedup_high", "runtime"]
DEPLOYMENT_TABLES = ("deployments_representative", "deployments")
RIVALS = ("baseline", "control")
KEPT = [
    "group", "dataset", "model", "unit", "method", "setting", "title", "label", "series", "level", "baseline", "reference",
    "quality", "quality_low", "quality_high", "ssim", "n", "against", "change", "change_low", "change_high", "seconds", *COSTS,
    "density", "macs_reduction", "published",
]  # fmt: skip
SLACK = 1.01  # a rival that costs a hundredth more counts as one at the same cost
VALUES = {"points": "%", "points of agreement": "% agreement", "dB": "dB"}  # unit of a difference -> of a quality


def read_deployed(files: Sequence[Path]) -> pd.DataFrame:
    """method -> DEPLOYED: of the deployment that stands for it on its paper's network, with the fewest threads.

    files: CSVs of `write_deployments`, of which the first one that exists is read.
    """
    found = next((pd.read_csv(file, keep_default_na=False) for file in files if file.exists()), None)
    if found is None:
        return pd.DataFrame(columns=DEPLOYED)
    return representative(found).rename(columns={"setting": "network_setting"})[DEPLOYED]


def is_main(group: Group, method: str, setting: str) -> bool:
    """Whether a setting shows what its method is: one of its first series, at any level. The others are controls."""
    return group.series(method, setting) == group.series(method, group.settings[method][0])


def headline(group: Group, summary: pd.DataFrame) -> pd.DataFrame:
    """A row per level and method, mild compression first, then the best one; of baselines where no method runs.

    The columns of the summary, and for each of RIVALS `*_method`, `*_setting`, `*_title` and `*_quality`: the baseline of the
    highest quality at the same level, or at no more stored bytes and arithmetic where it has no level in common with
    any other method (bicubic upsampling, a smaller dense network); the control, another setting of the method at the level.
    `dense_quality` is that of the network that `change` is relative to.
    """
    if summary.empty:
        return summary
    keys = zip(summary.method, summary.setting, strict=True)
    main = pd.Series([is_main(group, *key) for key in keys], index=summary.index)
    compared = ~summary.method.map(group.is_dense).astype(bool)
    own = compared & ~summary.baseline.astype(bool)
    shown = summary[main & (own if own.any() else compared)]
    rank = {level: i for i, level in enumerate(level_order(summary))}
    order = shown.assign(place=shown.level.map(rank)).sort_values(["place", "quality"], ascending=[True, False])
    dense = summary[summary.series == summary.against].quality.max()
    rows = []
    for row in each(order):
        index: Any = row.Index
        others = summary.drop(index=index)
        controls = others[(others.method == row.method) & (others.level == row.level) & ~main[others.index]]
        rivals = {"baseline": _baselines(others, row), "control": controls}
        found = [_best(name, rivals[name]) for name in RIVALS]
        rows.append({**summary.loc[index], **found[0], **found[1], "dense_quality": dense})
    return pd.DataFrame(rows)


def _baselines(others: pd.DataFrame, row: Any) -> pd.DataFrame:
    """The baselines at the level of a row; and those outside all levels that cost no more than it."""
    baselines = others[others.baseline.astype(bool) & (others.method != row.method) & (others.series != row.against)]
    same = baselines.level == row.level
    cheap = (baselines.stored_bytes <= SLACK * row.stored_bytes) & (baselines.macs <= SLACK * row.macs)
    return baselines[(same & ~baselines.reference.astype(bool)) | (cheap & baselines.reference.astype(bool))]


def _best(name: str, rivals: pd.DataFrame) -> dict[str, Any]:
    known = rivals[rivals.quality.notna()].sort_values("quality", ascending=False, kind="stable")
    best: Any = known.iloc[0] if len(known) else None
    fields = ("method", "setting", "title", "quality")
    if best is None:
        return {f"{name}_{key}": float("nan") if key == "quality" else "" for key in fields}
    words = ", ".join(filter(None, (best.title if name == "baseline" else "", best.label)))
    return {f"{name}_{key}": best[key] for key in fields} | {f"{name}_title": words}


def _rival(name: str) -> Column:
    def cell(row: Any) -> str:
        quality = getattr(row, f"{name}_quality")
        return f"{number(quality)} ({getattr(row, f'{name}_title')})" if is_number(quality) else DASH

    return Column(name, f"strongest {name}", cell, numeric=False)


def _quality(row: Any) -> str:
    half = (row.quality_high - row.quality_low) / 2
    return f"{number(row.quality)} {VALUES[row.unit]}{f' ± {number(half)}' if is_number(half) else ''}"


def _dense(row: Any) -> str:
    return f"{number(row.dense_quality)} ({row.against})" if is_number(row.dense_quality) else DASH


def _speedup(row: Any) -> str:
    if not is_number(row.speedup):
        return ""
    ratio = f"{number(row.speedup)} [{number(row.speedup_low)}, {number(row.speedup_high)}]"
    return f"{ratio} ({row.network}, {row.network_setting}, {row.runtime})"


OVERVIEW = (
    plain("on"),
    Column("level", "level", lambda row: row.label or DASH, numeric=False),
    Column("method", "method", lambda row: row.title if row.baseline else f"**{row.title}**", numeric=False),
    Column(
        "quality",
        "quality",
        _quality,
        note="Each row is a method at one level, as it is published; ± is the 95 % t-interval over seeds.",
    ),
    _rival("baseline"),
    _rival("control"),
    Column(
        "dense",
        "dense",
        _dense,
        numeric=False,
        note="`strongest baseline`: of all settings of all baselines at the same level. `strongest control`: the same method "
        "at this level with a part left out or changed. `vs dense` is paired by seed with the network named under `dense`.",
    ),
    Column("change", "vs dense", change),
    STORED,
    Column(
        "speedup",
        "speed-up at the paper's size",
        _speedup,
        numeric=False,
        note="Speed-ups are those of the papers' networks (see the table of deployments), named in brackets with setting and "
        "runtime, over the fastest dense network in the same arithmetic; those of the small networks are in the comparison "
        "and latency tables.",
        shown=lambda view: bool(view.rows.speedup.notna().any()),
    ),
)


def overview(
    groups: Sequence[Group], summaries: Sequence[pd.DataFrame], deployed: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, str]:
    """The headlines of all groups with the speed-ups of `read_deployed`, once per method and group; and their Markdown."""
    first = ["group", "dataset", "model", "method", "setting"]
    frames = []
    for group, summary in zip(groups, summaries, strict=True):
        if len(own := headline(group, summary)):
            own = own.assign(group=group.kind, dataset=group.dataset, model=group.model, unit=group.unit)
            frames.append(_with_deployed(own, pd.DataFrame(columns=DEPLOYED) if deployed is None else deployed))
    if not frames:
        return pd.DataFrame(columns=first), f"## Overview\n\n{NOTHING}"
    table = pd.concat(frames, ignore_index=True)
    table = table[first + [c for c in table.columns if c not in first]]
    on = table.model + " / " + table.dataset
    text = render(OVERVIEW, View(table.assign(on=on.mask(on.duplicated(), ""))))
    return table, f"## Overview\n\n{text.table}\n\n{' '.join(text.notes)}"


def _with_deployed(own: pd.DataFrame, deployed: pd.DataFrame) -> pd.DataFrame:
    """With DEPLOYED in place of the small network's times, in the first row of every method."""
    rivals = [f"{name}_{key}" for name in RIVALS for key in ("method", "setting", "title", "quality")]
    joined = own[[*KEPT, "dense_quality", *rivals]].join(deployed, on="method")
    joined.loc[joined.method.duplicated(), DEPLOYED] = float("nan")
    return joined
