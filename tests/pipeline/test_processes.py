"""A training in two processes, each with half of every batch, and one process with two micro-batches: the same bits."""

import shutil
from pathlib import Path

import pytest
import torch

from compressbench.plan import Run
from compressbench.stages.launch import launch
from compressbench.stages.stages import _share_stage, run_stage
from tests.conftest import copy_tree, run_module
from tests.pipeline.stage_runs import first_run, job_of, prepare, results, set_recipes

pytestmark = pytest.mark.pipeline
BY_COMMAND = "random"  # from the command line, as a user does
TOGETHER = ("optg", "subp", "recu", "siman", "ffsd")
BUDGETS = ("scratch", "finetune")
Found = dict[str, dict[str, str]]


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
    return parts


@pytest.mark.parametrize("method", (BY_COMMAND, *TOGETHER))
def test_two_processes_equal_two_micro_batches(method: str, found: dict[str, Found]) -> None:
    assert {"model.safetensors", "model.json", "history.csv", "record.json"} <= set(found["processes"][method])
    assert found["processes"][method] == found["micro_batches"][method]
    whole, divided = (found[parts][method]["model.safetensors"] for parts in ("whole", "processes"))
    assert whole != divided, "batch statistics are those of half batches"
