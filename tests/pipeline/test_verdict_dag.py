"""The verdict, as the DAG comes to it: in a run that leaves reports/ alone, and in the one that rewrites it."""

import shutil
from pathlib import Path

import pytest

from compressbench.reporting import SEEDS
from tests.conftest import Command
from tests.pipeline.conftest import Smoke, snakemake

pytestmark = pytest.mark.pipeline


def test_a_scale_without_committed_numbers_says_so(smoke: Smoke, cli: Command) -> None:
    assert not (smoke.root / "reports").exists()
    process = cli(smoke.root, "verdict", "smoke")
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().endswith("Nothing to compare with: no numbers of this scale are committed.")


def test_the_run_that_rewrites_reports_is_compared_with_what_was_there(smoke: Smoke, tmp_path: Path) -> None:
    """Snakemake removes the outputs of a job before it runs, but not this one."""
    root = tmp_path / "project"
    shutil.copytree(smoke.root, root, symlinks=True)
    config = root / "config/smoke.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "\nreport_seeds: [0]\n", encoding="utf-8")
    computed = (root / "results/smoke/report" / SEEDS).read_text(encoding="utf-8")
    first, second, *rest = computed.splitlines(keepends=True)
    cells, value = second.rsplit(",", 1)
    committed = root / "reports" / SEEDS
    committed.parent.mkdir(parents=True)
    committed.write_text("".join([first, f"{cells},{float(value) + 1}\n", *rest]), encoding="utf-8")
    process = snakemake(root, "--config", "scale=smoke")
    assert process.returncode == 0, process.stderr[-3000:]
    assert "1 difference, 0 missing" in (root / "reports/verdict.md").read_text(encoding="utf-8")
    assert committed.read_text(encoding="utf-8") == computed
