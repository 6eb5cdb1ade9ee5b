"""What the Slurm profile asks for, stage by stage: the real Snakemake and plugin, with commands in the place of Slurm's.

Their sbatch writes down what it is asked for and makes the files of the job in place of running it.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressbench.plan import MODEL_FILES, Plan
from tests.conftest import run_module

pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed")
pytestmark = pytest.mark.pipeline

MODEL = [*MODEL_FILES, "history.csv", "run.json"]
FILES = {
    "pretrain": MODEL,
    "synthesize": ["synthetic.safetensors", "synthetic.json", "history.csv", "record.json", "run.json", "preview.png"],
    "compress": [*MODEL, "record.json"],
    "finetune": [*MODEL, "record.json"],
    "evaluate": ["metrics.json", "run.json"],
    "latency": ["latency.json", "run.json"],
}
SBATCH = f"""
import json, os, re, sys
from pathlib import Path

files = {FILES!r}
jobs = re.findall(r"(\\w+):(scale=\\S+)", sys.argv[-1].split("--allowed-rules")[0])
asked = Path(os.environ["STUB"])
number = len(list(asked.glob("*.json"))) + 1
(asked / f"{{number:04}}.json").write_text(json.dumps({{"options": sys.argv[1:-1], "stages": [stage for stage, _ in jobs]}}))
for stage, names in jobs:
    of = dict(pair.split("=") for pair in names.strip("'\\"").split(","))
    parts = [of["scale"], of["dataset"], of["model"]]
    seed = "seed" + of["seed"]
    parts += ["pretrain", seed] if stage == "pretrain" else [of["method"], of["setting"], seed, stage]
    folder = Path("results", *parts)
    benchmark = Path("benchmarks", *parts).with_suffix(".tsv")
    for file in [benchmark, *(folder / name for name in files[stage])]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
print(number)
"""
SQUEUE = """
import os
from pathlib import Path

for i, _ in enumerate(Path(os.environ["STUB"]).glob("*.json"), 1):
    print(f"{i}|{os.environ['STATE']}")
"""
SCONTROL = 'print("MinJobAge               = 300 sec")'


@dataclass
class Asked:
    """One call of sbatch."""

    options: list[str]
    stages: set[str]

    def value(self, option: str) -> str | None:
        """What follows the option, after a space or `=`; empty where it stands alone, None where it is missing."""
        for word, following in zip(self.options, [*self.options[1:], ""], strict=True):
            if word == option:
                return "" if following.startswith("-") else following
            if word.startswith(f"{option}="):
                return word.partition("=")[2]
        return None


Submit = Callable[..., tuple[subprocess.CompletedProcess, list[Asked]]]


@pytest.fixture
def submit(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """Run Snakemake with the profile: its process, and what sbatch was asked for."""
    commands, stub = tmp_path_factory.mktemp("bin"), tmp_path_factory.mktemp("asked")
    for name, code in {
        "sbatch": SBATCH, "squeue": SQUEUE, "scontrol": SCONTROL, "sacct": "", "scancel": "", "sinfo": "", "sacctmgr": "",
        "sshare": "",
    }.items():  # fmt: skip
        (commands / name).write_text(f"#!{sys.executable}\n{code}", encoding="utf-8")
        (commands / name).chmod(0o755)
    for name, pinned in Plan(project, "smoke").data.fetched.items():
        record = project / "results/data" / f"{name}-{pinned.removesuffix('.dir')}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.touch()

    def run(*arguments: str, state: str = "COMPLETED") -> tuple[subprocess.CompletedProcess, list[Asked]]:
        environment = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "STUB": str(stub), "STATE": state}
        often = (
            "--slurm-init-seconds-before-status-checks",
            "1",
            "--seconds-between-status-checks",
            "1",
            "--latency-wait",
            "1",
        )
        process = run_module(
            project, "--profile", "workflow/profiles/slurm", *often, *arguments, module="snakemake", env=environment
        )
        found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(stub.glob("*.json"))]
        return process, [Asked(call["options"], set(call["stages"])) for call in found]

    return run


def long_and_on_gpus(project: Path) -> None:
    """A smoke scale whose trainings take hours, on GPUs."""
    file = project / "config/smoke.yaml"
    scale: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    scale["device"] = "cuda"
    for recipe in ("pretrain", "finetune"):
        scale["pairs"]["digits/resnet8"][recipe] |= {"epochs": 100_000}
    file.write_text(yaml.safe_dump(scale), encoding="utf-8")


def test_every_stage_asks_for_what_it_needs(project: Path, submit: Submit) -> None:
    long_and_on_gpus(project)
    config = ("--config", "scale=smoke", "methods=[intraq,dense]", "pairs=[digits/resnet8]")
    process, asked = submit("intraq", "dense", *config)
    assert process.returncode == 0, process.stderr[-3000:]
    by_stage = {stage: [call for call in asked if stage in call.stages] for stage in FILES}
    assert all(by_stage.values()), "every stage is submitted"
    for stage in ("pretrain", "synthesize", "finetune", "evaluate"):
        for call in by_stage[stage]:
            assert call.value("--gpus") == "1" and call.stages == {stage}, (stage, call)
    assert {call.value("--gpus") for call in by_stage["compress"]} == {"1", None}, (
        "dense only loads the trained network"
    )
    for call in by_stage["latency"]:
        assert call.value("--gpus") is None and call.value("--exclusive") == "" and call.stages == {"latency"}
    for call in asked:
        assert call.value("-p") is None and call.value("--gres") is None, (
            "no partition is asked for unless one is given"
        )
        assert (call.value("--exclusive") is not None) == (call.stages == {"latency"})
        assert int(call.value("--mem") or 0) >= 1000 and int(call.value("-t") or 0) >= 5
        assert call.value("--cpus-per-task") == "1"
    times = {stage: max(int(call.value("-t") or 0) for call in by_stage[stage]) for stage in FILES}
    assert times["pretrain"] > 60 > times["latency"], "the time follows the recipe"


def test_jobs_of_seconds_share_a_job_of_the_cluster(submit: Submit) -> None:
    config = ("--config", "scale=smoke", "methods=[intraq,dense,snip]")
    process, asked = submit("intraq", "dense", "snip", *config)
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(asked) == 2, [call.stages for call in asked]
    computing, timed = asked
    assert computing.stages == {"pretrain", "synthesize", "compress", "finetune", "evaluate"}
    assert timed.stages == {"latency"} and timed.value("--exclusive") == ""
    assert timed.value("--cpus-per-task") == "1", "one after the other"
    assert computing.value("--cpus-per-task") == "4", "as many side by side as there are lanes"


def test_account_partition_and_one_type_of_processor_are_the_users(submit: Submit) -> None:
    own = ("--default-resources", "slurm_account='my_group'", "slurm_partition='long'", "--set-resources")
    exclusive = ("latency:slurm_extra='--exclusive'", "latency:constraint='icelake'")
    process, asked = submit("snip", *own, *exclusive, "--config", "scale=smoke", "methods=[snip]")
    assert process.returncode == 0, process.stderr[-3000:]
    assert asked and {(call.value("-A"), call.value("-p")) for call in asked} == {("my_group", "long")}
    assert [call.value("-C") for call in asked if "latency" in call.stages] == ["icelake"]


def test_a_cancelled_job_ends_the_run(submit: Submit) -> None:
    config = ("--config", "scale=smoke", "methods=[snip]")
    process, asked = submit("snip", "--retries", "1", *config, state="CANCELLED")
    assert process.returncode != 0
    assert "Error in group quick" in process.stderr and "Trying to restart" in process.stderr
    first, second = asked
    assert int(second.value("--mem") or 0) > int(first.value("--mem") or 0), "the second try asks for more"


@pytest.mark.parametrize("rule", ["data", "published_counts", "report", "tracked", "all"])
def test_what_needs_no_node_stays_where_snakemake_runs(project: Path, rule: str) -> None:
    text = (project / "Snakefile").read_text(encoding="utf-8")
    assert re.search(rf"localrules:\n(    \w+,\n)*    {rule},\n", text)
