"""A training in two processes, each with half of every batch, and one process with two micro-batches: the same bits."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressbench.files import read_json
from compressbench.plan import Run
from compressbench.stages.launch import launch
from compressbench.stages.stages import _share_stage, run_stage
from compressbench.training import State, loop
from tests.conftest import copy_tree, run_module
from tests.pipeline.stage_runs import first_run, job_of, prepare, results, set_recipes

pytestmark = pytest.mark.pipeline
BY_COMMAND = "random"  # from the command line, as a user does
TOGETHER = ("optg", "subp", "recu", "siman", "ffsd")
KILLED, KILLED_AT = "recu", 25  # epochs of 18 steps; its hooks remember bits
BUDGETS = ("scratch", "finetune")
Found = dict[str, dict[str, str]]


def share_a_killed_stage(root: Path, run: Run) -> None:
    """In one of two processes: the training ends in the middle of its second epoch, and then goes on."""
    step = loop._step

    def killed(state: State, *arguments: Any) -> Tensor:
        if state.step == KILLED_AT:
            raise KeyboardInterrupt
        return step(state, *arguments)

    loop._step = killed
    with contextlib.suppress(KeyboardInterrupt):
        _share_stage(root, run, "compress")
    loop._step = step
    torch.distributed.barrier()
    latest = read_json(root / run.folder("compress") / "checkpoints/training/latest.json")
    assert latest["steps_done"] == KILLED_AT, "not killed right after a checkpoint"
    torch.distributed.barrier()
    _share_stage(root, run, "compress")


def share_stages(root: Path, runs: list[Run]) -> None:
    """In one of two processes: several stages, since it takes long to start a process."""
    for run in runs:
        if torch.distributed.get_rank() == 0:
            shutil.rmtree(root / run.folder("compress"))
        torch.distributed.barrier()
        _share_stage(root, run, "compress")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> dict[str, Found]:
    """The results of every method: undivided, of two micro-batches, and of two processes."""
    root = copy_tree(tmp_path_factory.mktemp("processes"), data_root)
    runs = {method: first_run(root, method) for method in (BY_COMMAND, *TOGETHER)}
    pairs = {run.pair for run in runs.values()}

    def collected() -> Found:
        return {method: results(root, job_of(root, run, "compress")) for method, run in runs.items()}

    for run in runs.values():
        prepare(root, job_of(root, run, "compress"))
        run_stage(root, run, "compress")
    parts = {"whole": collected()}
    for pair in pairs:
        set_recipes(root, pair, BUDGETS, accumulate=2)
    for run in runs.values():
        run_stage(root, run, "compress")
    parts["micro_batches"] = collected()
    for pair in pairs:
        set_recipes(root, pair, BUDGETS, accumulate=1, processes=2)
    shutil.rmtree(root / runs[BY_COMMAND].folder("compress"))
    done = run_module(root, "compress", runs[BY_COMMAND].name)
    assert done.returncode == 0, done.stderr[-3000:]
    launch(2, torch.device("cpu"), share_stages, root, [runs[method] for method in TOGETHER])
    parts["processes"] = collected()
    for pair in pairs:
        set_recipes(root, pair, BUDGETS, checkpoint_steps=KILLED_AT)
    shutil.rmtree(root / runs[KILLED].folder("compress"))
    launch(2, torch.device("cpu"), share_a_killed_stage, root, runs[KILLED])
    parts["killed"] = collected()
    return parts


@pytest.mark.parametrize("method", (BY_COMMAND, *TOGETHER))
def test_two_processes_equal_two_micro_batches(method: str, found: dict[str, Found]) -> None:
    assert {"model.safetensors", "model.json", "history.csv", "record.json"} <= set(found["processes"][method])
    assert found["processes"][method] == found["micro_batches"][method]
    whole, divided = (found[parts][method]["model.safetensors"] for parts in ("whole", "processes"))
    assert whole != divided, "batch statistics are those of half batches"


def test_two_processes_resume_in_mid_epoch(found: dict[str, Found]) -> None:
    assert found["killed"][KILLED] == found["processes"][KILLED]
