"""One line about a workflow: the time that is left, failed jobs with their logs, and the first page."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from compressbench.progress import Estimate, duration, words
from tests.conftest import ROOT, run_module

SNAKEFILE = """
rule all:
    input: expand("out/{i}", i=range(3)), "page"
rule make:
    output: "out/{i}"
    log: "logs/{i}"
    shell: "test {wildcards.i} != 1 || (echo 'error: it broke.' > {log}; false); touch {output}"
rule first_page:
    input: "out/0"
    output: "page"
    shell: "touch {output}"
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def estimate(clock: Clock, **jobs: int) -> Estimate:
    made = Estimate(clock)
    made.jobs = Counter(jobs)
    return made


def test_jobs_of_one_rule_take_as_long_as_those_before_them() -> None:
    clock = Clock()
    known = estimate(clock, train=4)
    assert known.seconds_left() is None and "not known yet" in words(known, 0)
    known.start(1, "train", 1)
    clock.now = 10
    known.finish(1)
    assert known.seconds_left() == pytest.approx(30)
    known.start(2, "train", 1)
    clock.now = 14
    assert known.seconds_left() == pytest.approx(26)
    assert words(known, 0) == "1 done, 1 running, 2 left, about 30 s"


def test_two_at_a_time_are_twice_as_fast_and_a_job_on_both_processors_counts_twice() -> None:
    clock = Clock()
    known = estimate(clock, train=4, time=2)
    for job in (1, 2):
        known.start(job, "train", 1)
    clock.now = 10
    for job in (1, 2):
        known.finish(job)
    known.start(3, "time", 2)
    clock.now = 15
    known.finish(3)
    assert known.seconds_left() == pytest.approx(10 + 5)


def test_a_rule_that_has_not_run_costs_what_the_others_cost() -> None:
    clock = Clock()
    known = estimate(clock, train=1, unknown=3)
    known.start(1, "train", 1)
    clock.now = 20
    known.finish(1)
    assert known.seconds_left() == pytest.approx(60)
    known.fail(2)
    known.finish(3)
    assert known.done == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "10 s"),
        (34, "30 s"),
        (58, "1 min"),
        (125, "2 min"),
        (3540, "59 min"),
        (3600, "1 h 0 min"),
        (7320, "2 h 2 min"),
    ],
)
def test_durations_are_as_exact_as_they_are_known(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_snakemake_runs_behind_the_line(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    code = "from compressbench.progress import snakemake; snakemake(['--cores', '1', '--keep-going'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
                          capture_output=True, encoding="utf-8", timeout=120)  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[lines.index("failed: make, logs/1") + 1] == "  error: it broke."
    assert "A first page to look at: page" in lines
    assert lines[-1].startswith("3 of 4 jobs done, 1 failed, in ")
    assert len(lines) == 5, done.stderr
    log = Path(next(line for line in lines if line.startswith("Complete log")).split(": ")[1])
    assert "Error in rule make:" in log.read_text(encoding="utf-8")


def test_a_wrong_configuration_is_said(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        "from snakemake.exceptions import WorkflowError\nraise WorkflowError('a: wrong.')\n", encoding="utf-8"
    )
    code = "from compressbench.progress import snakemake; snakemake(['--cores', '1'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
                          capture_output=True, encoding="utf-8", timeout=120)  # fmt: skip
    assert done.returncode == 1 and "a: wrong." in done.stderr


def test_the_command_hands_its_arguments_to_snakemake() -> None:
    done = run_module(ROOT, "snakemake", "--version")
    assert done.returncode == 0 and done.stdout.strip().startswith("9.")
