"""Result files -> tables, figures and the findings page. Reads files only: no model, no method, no torch."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.reporting.outputs import PAGE, SEEDS, Description, describe, outputs

if TYPE_CHECKING:
    from compressbench.config import Declaration
    from compressbench.plan import Run

__all__ = ["PAGE", "SEEDS", "Description", "describe", "outputs", "write"]


def write(
    results_root: Path,
    scale: str,
    runs: Sequence["Run"],
    declarations: Mapping[str, "Declaration"],
    methods_root: Path,
    out: Path,
    *,
    counts: Path | None = None,
    timed: Mapping["Run", "Run"] | None = None,
    unlabelled: Collection[str] = (),
    multiples: Mapping[str, float] | None = None,
    committed: Path | None = None,
    complete: bool = False,
    figures: bool = True,
    deployments: Sequence[Path] = (),
    obstacles: Mapping[tuple[str, str], str] | None = None,
) -> list[Path]:
    """Write every file that `outputs` names for these runs into `out`, also when results are missing.

    Args:
        results_root: the folder that holds `{scale}/{dataset}/{model}/...`.
        scale: the name of a file in config/.
        runs: the expected runs.
        declarations: of every method in `runs`.
        methods_root: the folder methods/, for published.csv and README.md.
        out: the folder of the report.
        counts: list of {method, model, setting, metric, value}; default `{results_root}/{scale}/counts.json`.
        timed: run -> the run whose latency is used for it, see `Plan.timed`; default: every run has its own.
        unlabelled: the pairs on which networks are compared with the float network, see `Plan.unlabelled`.
        multiples: the pairs that differ in their budgets only -> budget as a multiple of the least; default: none.
        committed: the folder of the report whose single seeds the run is compared with, as it is before this call.
        complete: whether `out` must not be touched when a result is missing.
        figures: whether to draw: that takes most of the time.
        deployments: tables of the times at the papers' sizes (CSV); the overview reads the first one that exists.
        obstacles: (method, pair) -> why the method cannot run there, see `Plan.obstacles`.

    Returns:
        The written files.

    Raises:
        UserError: `committed` is damaged; or results are missing from a `complete` report.
    """
    from compressbench.reporting.writer import write_report

    return write_report(
        results_root,
        scale,
        runs,
        declarations,
        methods_root,
        out,
        counts,
        timed,
        unlabelled,
        multiples or {},
        committed,
        complete,
        figures,
        deployments,
        obstacles or {},
    )
