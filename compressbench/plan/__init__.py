"""What has to run: the runs of a scale, their jobs with all that they read, and whether a result is still that of its job."""

from compressbench.plan.job import MODEL_FILES, SYNTHETIC_FILE, Job, Run
from compressbench.plan.plan import REPORTS, Plan, parse_run, slug

__all__ = ["MODEL_FILES", "REPORTS", "SYNTHETIC_FILE", "Job", "Plan", "Run", "parse_run", "slug"]
