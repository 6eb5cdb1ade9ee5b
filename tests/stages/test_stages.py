"""Tests of the stages: which files they keep from an earlier try, and what they refuse. The DAG runs them: tests/pipeline."""

import json
from pathlib import Path

import pytest
import torch

from compressbench import storage
from compressbench.errors import UserError
from compressbench.method import PublishedCount, loading
from compressbench.plan import Run, provenance
from compressbench.stages import stages
from compressbench.tracking.gate import VARIABLE
from tests.conftest import ROOT


def test_checkpoints_of_another_configuration_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    stages._keep_own_checkpoints(folder, "one")
    (folder / "epoch3").touch()
    stages._keep_own_checkpoints(folder, "one")
    assert (folder / "epoch3").exists()
    stages._keep_own_checkpoints(folder, "other")
    assert not (folder / "epoch3").exists()
    assert [path.name for path in folder.iterdir()] == ["configuration.json"]


@pytest.mark.parametrize(("available", "device"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_a_gpu_where_there_is_one(available: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert stages._device("auto") == torch.device(device)
    assert stages._device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_configured_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no usable GPU; write device: auto or cpu"):
        stages._device("cuda")


def test_what_a_stage_keeps_replaces_what_an_earlier_one_kept(tmp_path: Path) -> None:
    file = tmp_path / stages.KEPT
    stages._save_kept(file, {"moments": torch.arange(3.0)})
    assert torch.equal(storage.load_tensors(file)["moments"], torch.arange(3.0))
    stages._save_kept(file, {})
    assert not file.exists()


def test_a_pair_that_the_scale_does_not_have_is_named_with_the_known_ones() -> None:
    run = Run("smoke", "digits", "alexnet", "magnitude", "global_p90", 0)
    with pytest.raises(UserError, match=r"digits/alexnet is not a pair of config/smoke\.yaml; known: digits/resnet"):
        stages.run_stage(ROOT, run, "compress")


def test_published_counts_are_listed_with_their_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        @staticmethod
        def published_counts() -> list[PublishedCount]:
            return [PublishedCount("ResNet-50", "p90", "macs", 4e9)]

    monkeypatch.setattr(loading, "method_class", lambda root, name: Counted)
    stages.write_published_counts(ROOT, ["one", "two"], tmp_path / "counts.json")
    content = json.loads((tmp_path / "counts.json").read_text(encoding="utf-8"))
    expected = {"model": "ResNet-50", "setting": "p90", "metric": "macs", "value": 4e9}
    assert content == [{"method": name} | expected for name in ("one", "two")]


def test_a_dense_model_is_trained_compressed_and_evaluated(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the files of one stage to those of the next."""
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setattr(stages, "make_deterministic", lambda threads: None)  # they would change this process
    monkeypatch.setattr(stages.machine, "keep_freed_memory", lambda: None)
    for name in ("methods", "config", "data", "data.dvc"):
        (tmp_path / name).symlink_to(data_root / name)
    run = Run("smoke", "digits", "plain_mini", "magnitude", "inner_layerwise_p75", 0)
    state = torch.get_rng_state()
    for stage in ("pretrain", "compress", "finetune", "evaluate"):
        stages.run_stage(tmp_path, run, stage)
    torch.set_rng_state(state)
    dense, sparse = (storage.load_model(tmp_path / run.folder(stage)) for stage in ("pretrain", "finetune"))
    kept = sum(int((weight != 0).sum()) for weight in sparse.state_dict().values() if weight.dim() == 4)
    assert kept < sum(weight.numel() for weight in dense.state_dict().values() if weight.dim() == 4)
    metrics = json.loads((tmp_path / run.folder("evaluate") / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["quality"]["top1"] <= 100 and metrics["kept_weights"] < metrics["weights"]
    assert all((tmp_path / run.folder(stage) / provenance.FILE).exists() for stage in ("pretrain", "compress"))
    assert not list((tmp_path / "results").rglob("checkpoints"))
