"""Methods whose hooks remember something, or set what is no tensor, killed in the middle of an epoch."""

from pathlib import Path

import pytest

from compressbench.stages.stages import run_stage
from compressbench.training import loop
from tests.conftest import copy_tree
from tests.pipeline.stage_runs import first_run, forget, job_of, prepare, results, set_recipes

pytestmark = pytest.mark.pipeline
RUNS = {
    "optg": ("compress", 21),
    "subp": ("compress", 21),
    "dcff": ("compress", 21),
    "rigl": ("compress", 21),
    "lottery_jackpots": ("compress", 5),
    "recu": ("compress", 21),
    "ffsd": ("compress", 21),
    "cf_vit": ("compress", 39),
    "pss_net": ("compress", 21),
    "ddtb": ("finetune", 5),
}
BUDGETS = ("scratch", "finetune")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A project of its own, whose dense models the runs share."""
    return copy_tree(tmp_path_factory.mktemp("mid_epoch"), data_root)


@pytest.mark.parametrize("method", RUNS)
def test_a_run_killed_in_mid_epoch_ends_with_the_same_bits(
    method: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage, kill), run, step = RUNS[method], first_run(root, method), loop._step
    set_recipes(root, run.pair, BUDGETS, checkpoint_steps=2)
    job = job_of(root, run, stage)
    prepare(root, job)
    run_stage(root, run, stage)
    whole = results(root, job)
    forget(root, job)
    trained: list[int] = []

    def counted(state, *arguments):  # type: ignore[no-untyped-def]
        if state.step == kill and kill not in trained:
            trained.append(kill)
            raise KeyboardInterrupt
        trained.append(state.step)
        return step(state, *arguments)

    monkeypatch.setattr(loop, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        run_stage(root, run, stage)
    before = len(trained)
    run_stage(root, run, stage)
    assert trained[before] == kill - 1 > 0, "not resumed at the checkpoint before"
    assert results(root, job) == whole
