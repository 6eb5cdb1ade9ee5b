"""Writes the whole report."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from compressbench.errors import UserError
from compressbench.files import write_text
from compressbench.reporting import (
    budgets,
    comparison,
    families,
    fidelity,
    figures,
    headline,
    latent,
    matrix,
    peers,
    pictures,
    points,
    quantization,
    ranks,
    sessions,
    sparsity,
    tables,
)
from compressbench.reporting.collect import Results, collect
from compressbench.reporting.findings import findings, to_html, write_findings
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.outputs import BUDGETS, SEEDS, figures_of, tables_of
from compressbench.reporting.published import counts_table, read_published
from compressbench.reporting.seeds import read_seeds, seeds_table, write_seeds
from compressbench.reporting.style import save, styled
from compressbench.reporting.summary import summarize
from compressbench.reporting.verdict import verdict

if TYPE_CHECKING:
    from compressbench.config import Declaration
    from compressbench.plan import Run


def write_report(
    results_root: Path,
    scale: str,
    runs: Sequence["Run"],
    declarations: Mapping[str, "Declaration"],
    methods_root: Path,
    out: Path,
    counts: Path | None,
    timed: Mapping["Run", "Run"] | None,
    unlabelled: Collection[str],
    multiples: Mapping[str, float],
    committed: Path | None,
    complete: bool,
    drawn: bool,
    deployments: Sequence[Path],
    obstacles: Mapping[tuple[str, str], str],
) -> list[Path]:
    """See `compressbench.reporting.write`."""
    results = collect(results_root, scale, runs, timed)
    if complete and len(results.missing):
        raise UserError(
            f"{out} is rewritten by a complete run only; missing results: {len(results.missing)}, the first one "
            f"{_first_missing(results)}; finish the run, or report into another folder."
        )
    published = read_published(methods_root, declarations)
    groups = group_runs(runs, declarations, results.points, unlabelled)
    summaries = [summarize(results, group, published) for group in groups]
    recomputed = counts_table(counts or results_root / scale / "counts.json", published)
    written = _verdict(results, declarations, committed, out)
    written += write_findings(findings(methods_root, declarations), out)
    written += _tables(groups, summaries, results, recomputed, declarations, out / "tables")
    written += _overviews(groups, summaries, declarations, deployments, obstacles, out / "tables")
    ranked = ranks.named_ranks(groups, results)
    written += tables.write_table(out / "tables", "ranks", ranked, ranks.ranks_table(ranked))
    if multiples:
        written += tables.write_table(out / "tables", BUDGETS, *budgets.budgets_table(groups, results, multiples))
    if not drawn:
        return written
    with styled():
        written += save(ranks.ranks_figure(ranked), out / "figures", "ranks")
        if multiples:
            written += save(budgets.budgets_figure(groups, results, multiples), out / "figures", BUDGETS)
        for group, summary in zip(groups, summaries, strict=True):
            for kind in figures_of(group):
                written += save(_figure(kind, group, summary, results), out / "figures", f"{kind}_{group.slug}")
    return written


def _first_missing(results: Results) -> str:
    row = results.missing.iloc[0]
    return f"{results.scale}/{row.dataset}/{row.model}/{row.method}/{row.setting}/seed{row.seed}: {row.result}"


def _verdict(
    results: Results, declarations: Mapping[str, "Declaration"], committed: Path | None, out: Path
) -> list[Path]:
    """The single seeds, compared with those that were committed before they take their place."""
    computed, seeds = seeds_table(results), {run.seed for run in results.expected}
    source = committed / SEEDS if committed else None
    before = read_seeds(source) if source and source.exists() else None
    pairs = {run.pair for run in results.expected}
    table, page = verdict(computed, before, declarations, seeds, results.scale, source, out / "verdict.csv", pairs)
    written = tables.write_table(out, "verdict", table, page)
    write_text(out / "verdict.html", to_html(page, "Verdict"))
    return [*written, out / "verdict.html", write_seeds(computed, out / SEEDS)]


def _overviews(
    groups: Sequence[Group],
    summaries: Sequence[pd.DataFrame],
    declarations: Mapping[str, "Declaration"],
    deployments: Sequence[Path],
    obstacles: Mapping[tuple[str, str], str],
    out: Path,
) -> list[Path]:
    """The tables over all groups."""
    headlines = headline.overview(groups, summaries, headline.read_deployed(deployments))
    pairs = matrix.matrix(groups, summaries, declarations, obstacles)
    written = tables.write_table(out, "overview", *headlines)
    return [*written, *tables.write_table(out, "matrix", pairs, matrix.matrix_table(pairs))]


def _tables(
    groups: Sequence[Group],
    summaries: Sequence[pd.DataFrame],
    results: Results,
    recomputed: pd.DataFrame,
    declarations: Mapping[str, "Declaration"],
    out: Path,
) -> list[Path]:
    def title(method: str) -> str:
        return declarations[method].title if method in declarations else method

    written = tables.write_table(out, "published_counts", recomputed, tables.published_counts(recomputed, title))
    written += tables.write_table(out, "records", *tables.records(groups, results))
    written += tables.write_table(out, "missing", results.missing, tables.missing(results.missing, title))
    for group, summary in zip(groups, summaries, strict=True):
        for kind in tables_of(group):
            written += tables.write_table(out, f"{kind}_{group.slug}", *_table(kind, group, summary, results))
    return written


def _table(kind: str, group: Group, summary: pd.DataFrame, results: Results) -> tuple[pd.DataFrame, str]:
    """The table of one kind of `outputs.tables_of`, and its Markdown."""
    if kind == "comparison":
        return comparison.comparison(group, summary)
    if kind == "pareto":
        return families.pareto_table(group, summary)
    of_results = {
        "latency": tables.latency,
        "time_to_quality": tables.time_to_quality,
        "sessions": sessions.sessions_table,
        "fidelity": fidelity.fidelity_table,
    }
    return of_results[kind](group, results)


def _figure(kind: str, group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """The figure of one kind of `outputs.figures_of`."""
    work = figures.BIT_OPERATIONS if group.quantized else figures.MACS
    costs = {"quality_vs_bytes": figures.BYTES, "quality_vs_macs": work, "quality_vs_speedup": figures.SPEEDUP}
    if kind in costs and group.mixed:
        return families.quality_by_family(group, summary, results, costs[kind])
    if kind in costs:
        return figures.quality_against(group, summary, results, costs[kind])
    of_images = {"synthetic": pictures.synthetic, "diversity": quantization.diversity}
    if kind in of_images:
        return of_images[kind](group, results)
    drawings = {
        "quality_by_method": figures.quality_by_method,
        "training": figures.training,
        "peers": peers.peers,
        "speedup_vs_sparsity": figures.speedup_against_sparsity,
        "quality_vs_sparsity": sparsity.quality_against_sparsity,
        "mask_overlap": sparsity.mask_overlap,
        "quality_vs_bits": quantization.quality_against_bits,
        "operating_points": points.operating_points,
        "latent_weights": latent.latent_weights,
        "sessions": sessions.accuracy_by_session,
        "photographs": pictures.photographs,
    }
    return drawings[kind](group, summary, results)
