"""A workflow that is killed leaves no process behind, and goes on with the same bits."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressbench.processes import WORKFLOWS
from tests.conftest import copy_tree, run_module
from tests.pipeline.conftest import Smoke
from tests.pipeline.test_smoke_dag import result_hashes
from tests.test_fork_server import wait_for, working_in

pytestmark = pytest.mark.pipeline
METHODS = ("magnitude", "snip")
COMMAND = ["--cores", "2", "--keep-going", "--rerun-incomplete", "evaluated", "--config", "scale=smoke"]
KILLS = 3


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the processes")
def test_a_killed_workflow_goes_on_with_the_same_bits(smoke: Smoke, tmp_path: Path, data_root: Path) -> None:
    root = copy_tree(tmp_path, data_root)
    command = [*COMMAND, f"methods=[{','.join(METHODS)}]"]
    # as `make reproduce` without the latency, which has other numbers every time, and without the report
    with (root / "Snakefile").open("a", encoding="utf-8") as file:
        file.write('\nrule evaluated:\n    input: [str(r.folder("evaluate") / "metrics.json") for r in PLAN.runs]\n')
    chance = random.Random(0)
    for kill in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *command], cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: list(root.glob(".snakemake/locks/*.lock")) != [])
        if kill == 0:
            refused = run_module(root, "unlock")
            assert refused.returncode == 2 and refused.stdout == ""
            assert re.fullmatch(
                rf"error: another Snakemake works in .* \(process {process.pid} on .*\n", refused.stderr
            )
        time.sleep(chance.uniform(0.5, 4))
        if kill and process.poll() is not None:
            break  # what was left took less time than that
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not working_in(root))
        assert list(root.glob(".snakemake/locks/*.lock")) and list((root / WORKFLOWS).iterdir())
        unlocked = run_module(root, "unlock")
        assert unlocked.returncode == 0 and "removed the locks" in unlocked.stdout
    done = run_module(root, *command, module="snakemake")
    assert done.returncode == 0, done.stderr[-3000:]
    found, expected = result_hashes(root), result_hashes(smoke.root)
    assert len(found) > 15
    assert {name for name in found if found[name] != expected.get(name)} == set()
