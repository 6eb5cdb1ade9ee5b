"""Every smoke run of every method on a CUDA device: the emulated one, which refuses what a real one refuses."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from compressbench import storage
from compressbench.plan import Plan, Run
from compressbench.stages.stages import run_stage
from compressbench.timing import latency
from compressbench.training import divergence
from compressbench.training.checkpoint import Checkpoint
from tests.conftest import ROOT
from tests.emulated_cuda import Device, emulated_cuda

pytestmark = pytest.mark.pipeline

STEPS = 20  # of a training from random weights: one method cuts its budget into as many slices
OTHERS = ("pretrain", "finetune")  # these have one step an epoch


class Project:
    """A folder in which the stages run, in this process, and the pretrainings that it has so far."""

    def __init__(self, root: Path):
        self.root, self.plan = root, Plan(root, "smoke")
        self.pretrained: set[str] = set()

    def run(self, run: Run, stage: str) -> Device:
        with emulated_cuda() as device:
            run_stage(self.root, run, stage)
        return device

    def pretrain(self, run: Run) -> None:
        """The dense models that a run reads."""
        teaches = self.plan.declarations[run.method].needs_teacher
        for own in [run, *([self.plan.teacher(run)] if teaches else [])]:
            if own.pair not in self.pretrained:
                assert not self.run(own, "pretrain").draws
                self.pretrained.add(own.pair)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[Project]:
    """The smoke scale with `device: cuda`, a step or two where it has hundreds, and nothing said about bad accuracies."""
    root = tmp_path_factory.mktemp("cuda")
    for name in ("methods", "data.dvc"):
        (root / name).symlink_to(ROOT / name)
    (root / "data").symlink_to(data_root / "data")
    scale = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    scale |= {"device": "cuda", "latency": {"rounds": 30, "warmup": 1, "runtimes": ["torch_eager"]}}
    short = {"batch_size": 16}
    for pair in (pair for pair in scale["pairs"].values() if "scratch" in pair):
        pair["scratch"] = pair["scratch"] | short | {"steps_per_epoch": math.ceil(STEPS / pair["scratch"]["epochs"])}
        pair |= {name: pair[name] | short | {"steps_per_epoch": 1} for name in OTHERS}
    (root / "config").mkdir()
    (root / "config/smoke.yaml").write_text(yaml.safe_dump(scale), encoding="utf-8")
    before = torch.get_deterministic_debug_mode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSBENCH_TRACKING", "off")
        patch.setattr(divergence, "PATIENCE", 10**6)
        patch.setattr(latency, "interleaved_times", called_once)
        yield Project(root)
    torch.set_deterministic_debug_mode(before)


def called_once(calls: Sequence[Callable[[], object]], rounds: int, *_: object) -> np.ndarray:
    """The times of what was not timed: one for every call and round."""
    for call in calls:
        call()
    return np.ones((len(calls), rounds))


RUNS = Plan(ROOT, "smoke").runs


@pytest.mark.parametrize("method", sorted({run.method for run in RUNS}))
def test_every_stage_runs_on_cuda_and_draws_its_random_numbers_on_the_cpu(method: str, project: Project) -> None:
    for run in (run for run in project.plan.runs if run.method == method):
        project.pretrain(run)
        computed = 0
        for stage in project.plan.stages(run):
            device = project.run(run, stage)
            assert not device.draws, f"{stage} draws by {device.draws}, and other devices draw other numbers"
            assert stage != "latency" or not device.operators, "latency is that of the CPU"
            computed += device.operators
        model = storage.load_tensors(project.root / run.folder(project.plan.final_stage(run)) / "model.safetensors")
        assert bool(computed) == bool(model)  # but for what has no tensors to be moved, all compute there


@pytest.mark.parametrize("name", ["digits/vit_mini/vit/fine", "digits/resnet_mini/optg/p95"])  # Adam; masks with scores
def test_a_killed_training_resumes_to_the_same_bits(
    name: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(run for run in project.plan.runs if name in run.name)
    file = project.root / run.folder("compress") / "model.safetensors"
    project.run(run, "compress")
    uninterrupted, saved = file.read_bytes(), []
    file.unlink()

    def save(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    original = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", save)
    with pytest.raises(KeyboardInterrupt):
        project.run(run, "compress")
    project.run(run, "compress")
    assert len(saved) > 2 and file.read_bytes() == uninterrupted
