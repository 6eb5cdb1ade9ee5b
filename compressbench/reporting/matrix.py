"""Methods by networks: what each reaches, and why a pair is not there."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from compressbench.reporting.columns import Column, View, bullets, render
from compressbench.reporting.frames import each
from compressbench.reporting.groups import FAMILIES, Group, is_number
from compressbench.reporting.text import DASH, NOTHING, listed, number

if TYPE_CHECKING:
    from compressbench.config import Declaration

TASK_WORDS = {
    "classification": "classifiers",
    "super_resolution": "super-resolution",
    "class_incremental": "class-incremental learning",
}
COLUMNS = [
    "method", "title", "family", "baseline", "dataset", "model", "setting", "label", "quality", "quality_low", "quality_high",
    "n", "why",
]  # fmt: skip
NOT_RUN, NO_RESULT = "not run", "no result yet"
NOTE = (
    "Mean quality (%, or dB for super-resolution) ± 95 % t-interval over seeds, at the first setting that the method declares "
    "and that runs there, in brackets; settings differ in strength between rows: compare along a row, and methods at one level "
    f"in the overview. `{NOT_RUN}`: possible, but not among the scale's comparisons."
)


def matrix(
    groups: Sequence[Group],
    summaries: Sequence[pd.DataFrame],
    declarations: Mapping[str, "Declaration"],
    obstacles: Mapping[tuple[str, str], str],
) -> pd.DataFrame:
    """A row per method and group, by family: COLUMNS, where `why` says what stands against it; empty where it was evaluated.

    obstacles: (method, dataset/model) -> why the method cannot compress the network, as `Plan.obstacles` says.
    """
    order = list(FAMILIES)
    methods = {m: g for g in groups for m in g.methods}
    named = sorted(methods, key=lambda m: (order.index(declarations[m].family), methods[m].is_baseline(m), m))
    rows = []
    for method in named:
        declared = declarations[method]
        about: dict[str, Any] = {"method": method, "title": methods[method].short(method)}
        about |= {"family": declared.family, "baseline": declared.is_baseline}
        for group, summary in zip(groups, summaries, strict=True):
            own = summary[summary.method == method] if len(summary) else summary
            where = about | {"dataset": group.dataset, "model": group.model}
            if len(own):
                rows.append(where | {**own.iloc[0]} | where | {"why": ""})
            else:
                rows.append(where | {"why": _why(method, group, declared, obstacles)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _why(method: str, group: Group, declared: "Declaration", obstacles: Mapping[tuple[str, str], str]) -> str:
    if method in group.methods:
        return NO_RESULT
    task = "classification" if group.task == "fidelity" else group.task
    if task not in declared.task:
        return f"for {listed([TASK_WORDS[own] for own in declared.task])}"
    sentence = obstacles.get((method, f"{group.dataset}/{group.model}"), "")
    return sentence.partition(";")[0].rstrip(".") or NOT_RUN


def matrix_table(table: pd.DataFrame) -> str:
    """The Markdown of `matrix`: a column per network; reasons that are sentences stand below it."""
    heading = "## Methods by networks\n\n"
    if table.empty:
        return heading + NOTHING
    sentences = [
        why for why in dict.fromkeys(table.why) if why not in ("", NOT_RUN, NO_RESULT) and not why.startswith("for ")
    ]
    marks = {why: f"({i})" for i, why in enumerate(sentences, 1)}
    cells = table.assign(on=table.model + " / " + table.dataset, text=[_cell(row, marks) for row in each(table)])
    networks = list(dict.fromkeys(cells.on))
    wide = cells.pivot(index="method", columns="on", values="text").reindex(list(dict.fromkeys(cells.method)))
    about = table.drop_duplicates("method").set_index("method").loc[wide.index, ["title", "baseline"]]
    shown = pd.concat([about, wide.set_axis([f"network{networks.index(on)}" for on in wide.columns], axis=1)], axis=1)
    method = Column("method", "method", lambda r: r.title if r.baseline else f"**{r.title}**", numeric=False)
    text = render([method, *(_network(i, on) for i, on in enumerate(networks))], View(shown))
    reasons = bullets([f"{mark} {why}" for why, mark in marks.items()])
    return f"{heading}{text.table}\n\n{NOTE}\n\n{reasons}"


def _network(position: int, title: str) -> Column:
    return Column(title, title, lambda row: str(getattr(row, f"network{position}")), numeric=False)


def _cell(row: Any, marks: Mapping[str, str]) -> str:
    if row.why:
        return f"not possible {marks[row.why]}" if row.why in marks else row.why
    half = (row.quality_high - row.quality_low) / 2
    quality = number(row.quality) + (f" ± {number(half)}" if is_number(half) else "")
    return f"{quality} ({row.label})" if is_number(row.quality) else DASH
