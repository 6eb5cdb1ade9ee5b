"""The script for a GPU, on the emulated one, and the scales that `make gpu` runs."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from compressbench.config import load_scale
from compressbench.files import read_json
from compressbench.plan import Plan
from tests.benchmarks import gpu
from tests.conftest import ROOT
from tests.emulated_cuda import emulated_cuda

SMALL = {"network": "resnet18", "size": 32, "batch": 4}


@pytest.fixture
def root(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(gpu.VARIABLE, "off")
    for name in ("config", "methods", "data.dvc"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").symlink_to(data_root / "data")
    return tmp_path


def test_every_method_is_there_and_every_job_comes_behind_what_it_reads() -> None:
    plan = Plan(ROOT, "gpu")
    folders = [job.folder for job in gpu.jobs(plan)]
    assert len(folders) == len(set(folders))
    for place, job in enumerate(gpu.jobs(plan)):
        assert all(read.folder in folders[:place] for read in job.inputs.values())
    assert {(run.method, run.setting) for run in plan.runs} == {(r.method, r.setting) for r in Plan(ROOT, "smoke").runs}


def test_stages_run_on_the_gpu_and_say_how_they_ended(root: Path) -> None:
    plan = Plan(root, "gpu", ["dense", "minmax"], pairs=["digits/resnet8"])
    (minmax,) = (run for run in plan.runs if run.method == "minmax")
    assert gpu.attempt(root, plan.job(minmax, "compress"))["result"].startswith("UserError: ")
    with emulated_cuda():
        *_, table = gpu.stages(root, plan, limit=600)
    assert (table["result"] == "ok").all() and (table["seconds"] > 0).all()
    trained = table[table[gpu.THROUGHPUT].notna()]
    assert trained["stage"].tolist() == ["pretrain"] and (trained[gpu.THROUGHPUT] > 0).all()
    assert "accelerator" in read_json(root / trained["job"].item() / "run.json")
    (none,) = gpu.stages(root, plan, limit=0)
    assert len(none) == len(table) and (none["result"] == gpu.NOT_REACHED).all()
    gpu.write(root / "out", "gpu_stages", pd.concat([table, none]), "Stages")
    page = (root / "out/tables/gpu_stages.md").read_text(encoding="utf-8")
    assert "| minmax | digits/resnet8 | compress |" in page and "nan" not in page


@pytest.mark.parametrize("form", gpu.FORMS[:3], ids=lambda form: form.name)
def test_training_has_a_rate_in_every_form(form: gpu.Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", 2)
    row = gpu.throughput(form, torch.device("cpu"), **SMALL)  # type: ignore[arg-type]
    assert (row["form"], row["result"]) == (form.name, "ok") and row[gpu.THROUGHPUT] > 0
    monkeypatch.setattr(gpu, "fit", lambda *_, **__: 1 / 0)
    row = gpu.throughput(form, torch.device("cpu"), **SMALL)  # type: ignore[arg-type]
    assert row["result"] == "ZeroDivisionError: division by zero"


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no usable GPU"):
        gpu.main()


def test_resnet20_is_trained_as_in_the_paper_scale_in_bf16() -> None:
    ours = load_scale(ROOT, "resnet20").pairs["fashion_mnist/resnet20"]
    papers = load_scale(ROOT, "paper").pairs["cifar10/resnet20"]
    for name in ("scratch", "pretrain", "finetune"):
        assert getattr(ours, name) == getattr(papers, name).model_copy(update={"precision": "bf16"})
    assert ours.arguments == papers.arguments | {"in_channels": 1}
    Plan(ROOT, "resnet20").validate()
