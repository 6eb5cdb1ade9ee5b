"""Commands that report a run: reports/ is about a complete run of the desk scale, every other one reports elsewhere."""

import json
import shutil
from pathlib import Path

import pytest

from compressbench.plan import Plan
from compressbench.reporting import SEEDS
from tests.conftest import ROOT, Command


def small_project(root: Path) -> Path:
    """Two methods, and a desk scale that claims the seeds 0 and 1."""
    for name in (
        "methods/__init__.py",
        "methods/baselines/__init__.py",
        "config/desk.yaml",
        "config/smoke.yaml",
        "data.dvc",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in ("recu", "baselines/bnn"):
        shutil.copytree(ROOT / "methods" / name, root / "methods" / name)
    config = root / "config/desk.yaml"
    claim = next(line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("report_seeds:"))
    config.write_text(config.read_text(encoding="utf-8").replace(claim, "report_seeds: [0, 1]"), encoding="utf-8")
    return root


def write_results(root: Path, seeds: tuple[int, ...]) -> None:
    """What the report reads, for those runs: a quality that is 80 and the seed, and no measurement."""
    plan = Plan(root, "desk", seeds=seeds)
    for run in plan.runs:
        contents = {
            "evaluate/metrics.json": {"quality": {"top1": 80.0 + run.seed}, "params": 75_000, "macs": 10_000_000},
            "latency/latency.json": {"measurements": []},
        }
        for name, content in contents.items():
            file = root / "results" / run.name / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content), encoding="utf-8")


def report(cli: Command, root: Path, *arguments: str, command: str = "report") -> tuple[int, str]:
    """Exit code and output of a command, with the suite's own code and the project's files."""
    done = cli(root, command, *arguments, env={"PYTHONPATH": f"{root}:{ROOT}"})
    return done.returncode, done.stdout + done.stderr


def test_a_run_of_one_seed_leaves_reports_alone_and_is_compared_with_it(cli: Command, tmp_path: Path) -> None:
    root = small_project(tmp_path)
    write_results(root, (0, 1))
    assert report(cli, root, "desk", "--seeds", "[0, 1]")[0] == 0
    files_of = {p: p.read_bytes() for p in (root / "reports").rglob("*") if p.is_file()}
    assert root / "reports" / SEEDS in files_of
    code, output = report(cli, root, "desk", "--seeds", "0")
    runs = len(Plan(root, "desk", seeds=[0]).runs)
    assert code == 0, output
    assert f"All {3 * runs} committed numbers (reports/{SEEDS}) are equal to the last digit; 0 differences" in output
    assert f"Not part of this run: {3 * runs} committed numbers of seed 1." in output
    assert {p: p.read_bytes() for p in (root / "reports").rglob("*") if p.is_file()} == files_of
    assert report(cli, root, "desk", "--seeds", "0", command="report-folder") == (0, "results/desk/report\n")
    assert report(cli, root, "desk", "--seeds", "0", command="verdict")[1].strip() in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("desk", "reports", "--seeds", "0"), "report this run into another folder, by default results/desk/report"),
        (
            ("desk", "reports", "--seeds", "0,1", "--pairs", "fashion_mnist/binary_resnet8"),
            "is about all methods and pairs",
        ),
        (("smoke", "./reports"), "report_seeds in config/smoke.yaml: none"),
        (("desk", "--seeds", "0,1"), "missing results: 1, the first one desk/"),
    ],
)
def test_reports_cannot_be_overwritten_with_less(
    cli: Command, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    root = small_project(tmp_path)
    write_results(root, (0, 1))
    next((root / "results").rglob("seed1/evaluate/metrics.json")).unlink()
    code, output = report(cli, root, *arguments)
    assert code == 2 and words in output
    assert not (root / "reports").exists()


def test_a_verdict_before_any_report_says_where_it_comes_from(cli: Command, tmp_path: Path) -> None:
    code, output = report(cli, small_project(tmp_path), "desk", command="verdict")
    assert code == 2 and "it comes with the report: compressbench report desk" in output
