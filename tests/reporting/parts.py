"""Parts of the session's report."""

import json
from types import SimpleNamespace

import pandas as pd

from compressbench.reporting.collect import Results, collect
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.published import read_published
from compressbench.reporting.summary import summarize


def with_method(report: SimpleNamespace, method: str) -> tuple[Group, pd.DataFrame, Results]:
    """What a figure of the method's group is drawn from."""
    results = collect(report.results, "desk", report.runs, None)
    group = next(g for g in group_runs(report.runs, report.declarations) if method in g.methods)
    return group, summarize(results, group, read_published(report.root / "methods", report.declarations)), results


def metrics(report: SimpleNamespace, path: str) -> dict:
    return json.loads((report.results / "desk" / path / "evaluate/metrics.json").read_text(encoding="utf-8"))


def comparison(report: SimpleNamespace, name: str) -> pd.DataFrame:
    return pd.read_csv(report.out / f"tables/comparison_{name}.csv").set_index(["method", "setting"])
