"""Tests of the numbers that a run has in MLflow: those of the report."""

from dataclasses import replace
from pathlib import Path

import pytest

from compressbench.plan import Run
from compressbench.tracking.summary import Summary
from tests.tracking.projects import write

RUN = Run("smoke", "digits", "resnet_mini", "optg", "p95", 0)


@pytest.fixture
def summary(root: Path) -> Summary:
    for stage in ("compress", "evaluate", "latency"):
        write(root, stage)
    return Summary(root, "smoke", [RUN])


def test_a_run_has_the_numbers_of_its_result_files(summary: Summary) -> None:
    costs = {"quality": 81.25, "params": 100, "macs": 50, "bit_operations": 51_200, "stored_bytes": 70}
    timed = {"speedup": 1.5, "latency_ms": 2.0, "training_seconds": 7.0}
    assert summary.metrics(RUN) == costs | timed


def test_paper_readme_and_published_value_are_those_of_the_method(summary: Summary, root: Path) -> None:
    assert summary.readme(RUN) == root / "methods/optg/README.md"
    assert "2201.12826" in summary.paper(RUN)
    assert "72.45" in summary.published(RUN)


def test_a_run_of_a_method_that_no_longer_exists_has_nothing(root: Path) -> None:
    removed = replace(RUN, method="removed")
    summary = Summary(root, "smoke", [removed])
    assert summary.metrics(removed) == {}
    assert (summary.readme(removed), summary.paper(removed), summary.published(removed)) == (None, "", "")
