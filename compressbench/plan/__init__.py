"""What has to run: the runs of a scale, their jobs with all inputs, and whether a result is up to date."""

from compressbench.plan.job import MODEL_FILES, SYNTHETIC_FILE, Job, Run
from compressbench.plan.plan import FIRST_RUNS, REPORTS, Plan, last_run, last_run_file, parse_run

__all__ = [
    "FIRST_RUNS", "MODEL_FILES", "REPORTS", "SYNTHETIC_FILE", "Job", "Plan", "Run", "last_run", "last_run_file",
    "parse_run",
]  # fmt: skip
