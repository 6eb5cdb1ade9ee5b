"""Whether the jobs of a workflow track: decided once, when it starts, and passed to them in an environment variable."""

import logging
import os
import subprocess
import sys

log = logging.getLogger(__name__)
VARIABLE = "COMPRESSBENCH_TRACKING"
LIMIT = 90  # seconds; making a new database takes ten on a busy machine


def gate(scale: str) -> dict[str, str]:
    """Make the store and the experiment of `scale` ready in another process; what its jobs need in their environment.

    First connections race on the schema, so this comes before any parallel job. Where the store cannot be used, this logs
    the one warning of the workflow, and the jobs do not try.
    """
    command = [sys.executable, "-m", "compressbench", "tracking", "--prepare", scale]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=LIMIT
        )
        said = [line for line in done.stderr.splitlines() if line.strip()]
        failure = said[-1].removeprefix("error: ") if said else f"exit code {done.returncode}"
        if done.returncode == 0:
            for line in said:
                print(line, file=sys.stderr)
            return {}
    except subprocess.TimeoutExpired:
        failure = f"MLflow's store did not get ready within {LIMIT} s."
    log.warning("the runs are not tracked (results are not affected): %s", failure)
    return {VARIABLE: "off"}


def is_off() -> bool:
    """Whether the workflow has found that the store cannot be used."""
    return os.environ.get(VARIABLE) == "off"
