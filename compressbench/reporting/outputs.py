"""The names of everything that the report consists of: known from the plan, before any result exists."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from compressbench.reporting.groups import PRUNING, Group, group_runs

if TYPE_CHECKING:
    from compressbench.config import Declaration
    from compressbench.plan import Run

TABLES_PER_GROUP = ("comparison", "latency")
TABLES = ("overview", "ranks", "matrix", "published_counts", "records", "missing")
FIGURES_OF_ALL = ("ranks",)
FIGURES = ("quality_by_method", "training")
AGAINST_COST = ("quality_vs_bytes", "quality_vs_macs", "quality_vs_speedup")
PAGES = ("verdict.md", "verdict.html", "verdict.csv", "findings.md", "findings.html")
BUDGETS = "budgets"  # a table and a figure of scales that train one network with several budgets
SEEDS = "tables/seeds.csv"  # every number that must be reproduced; the verdict compares with it
PAGE = "index.html"  # made of all the others
CATEGORIES = {
    "index": "1 Explore",
    "verdict": "2 Verdict",
    "seeds": "2 Verdict",
    "overview": "3 Overview",
    "ranks": "3 Overview",
    "matrix": "3 Overview",
    "findings": "3 Overview",
    "missing": "3 Overview",
    "comparison": "4 Comparison",
    "quality_by_method": "4 Comparison",
    "quality_vs_sparsity": "4 Comparison",
    "quality_vs_bits": "4 Comparison",
    "mask_overlap": "4 Comparison",
    "sessions": "4 Comparison",
    "fidelity": "4 Comparison",
    "budgets": "5 Quality against cost",
    "pareto": "5 Quality against cost",
    "quality_vs_bytes": "5 Quality against cost",
    "quality_vs_macs": "5 Quality against cost",
    "quality_vs_speedup": "6 Latency",
    "speedup_vs_sparsity": "6 Latency",
    "latency": "6 Latency",
    "operating_points": "6 Latency",
    "deployments": "6 Latency",
    "training": "7 Training",
    "latent_weights": "7 Training",
    "peers": "7 Training",
    "time_to_quality": "7 Training",
    "records": "7 Training",
    "synthetic": "8 Pictures",
    "diversity": "8 Pictures",
    "photographs": "8 Pictures",
    "published_counts": "9 Published against recomputed",
}


SHOWN = ("svg", "html", "md")
"""Of the forms of a figure or table, the one in Snakemake's report: all of it stands in one file."""
WITH_HTML = ("verdict", "findings")


class Description(NamedTuple):
    """How a file appears in Snakemake's report: caption file (in workflow/report/), category, and labels; or whether at all."""

    caption: str
    category: str
    labels: dict[str, str]
    shown: bool


def tables_of(group: Group) -> list[str]:
    """The kinds of tables of a group."""
    more = {
        "time_to_quality": group.sparse and group.task != "fidelity",
        "sessions": group.task == "class_incremental",
        "fidelity": group.task == "fidelity",
        "pareto": group.mixed,
    }
    return [*TABLES_PER_GROUP, *(kind for kind, wanted in more.items() if wanted)]


def figures_of(group: Group) -> list[str]:
    """The kinds of figures of a group."""
    kinds = [*FIGURES, *(AGAINST_COST if group.compressed else ())]
    if "distillation" in group.families:
        kinds.append("peers")
    if group.families[0] in PRUNING:
        kinds.append("speedup_vs_sparsity")
    if group.sparse:
        kinds.append("quality_vs_sparsity")
    if sum(group.declarations[m].family == "unstructured" for m in group.methods) > 1:
        kinds.append("mask_overlap")
    if group.quantized and group.families != ["binary"]:
        kinds.append("quality_vs_bits")
    if "binary" in group.families:
        kinds.append("latent_weights")
    if any("synthesize" in group.declarations[m].stages for m in group.methods):
        kinds += ["synthetic", "diversity"]
    if any(group.declarations[m].batches for m in group.methods):
        kinds.append("operating_points")
    if group.task == "super_resolution":
        kinds.append("photographs")
    if group.task == "class_incremental":
        kinds[kinds.index("training")] = "sessions"  # a session's training has no accuracy of its own
    if group.task == "fidelity":
        kinds = [
            kind for kind in kinds if kind not in ("training", "quality_vs_speedup")
        ]  # nothing is trained or timed
    return kinds


def outputs(
    runs: Sequence["Run"],
    declarations: Mapping[str, "Declaration"],
    unlabelled: Collection[str] = (),
    multiples: Collection[str] = (),
) -> list[str]:
    """Every file of the report, relative to its folder; `write` writes exactly these.

    unlabelled: as in `group_runs`. multiples: the pairs whose budgets are compared.
    """
    groups = group_runs(runs, declarations, unlabelled=unlabelled)
    compared = [BUDGETS] if multiples else []
    tables = [*TABLES, *compared, *(f"{kind}_{g.slug}" for g in groups for kind in tables_of(g))]
    figures = [*FIGURES_OF_ALL, *compared, *(f"{kind}_{g.slug}" for g in groups for kind in figures_of(g))]
    return [
        *PAGES,
        SEEDS,
        *(f"tables/{name}.{form}" for name in tables for form in ("csv", "md")),
        *(f"figures/{name}.{form}" for name in figures for form in ("png", "svg")),
    ]


def describe(output: str) -> Description:
    """The caption, category and labels of one of `outputs`."""
    folder, _, file = output.rpartition("/")
    name, _, form = file.partition(".")
    kind = max((k for k in CATEGORIES if name == k or name.startswith(f"{k}_")), key=len)
    subject = name.removeprefix(kind).strip("_").replace("_", " ") or "all"
    what = {"tables": "table", "figures": "figure"}.get(folder, "page")
    labels = {
        "subject": subject,
        "shows": kind.replace("_", " ").replace(" vs ", " against "),
        "kind": what,
    }
    shown = form in SHOWN and not (form == "md" and kind in WITH_HTML)
    return Description(f"{kind}.rst", CATEGORIES[kind], labels, shown)
