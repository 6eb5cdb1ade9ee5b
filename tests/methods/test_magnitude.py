"""One-shot magnitude pruning: the largest weights stay, masks hold through fine-tuning."""

from pathlib import Path

import pytest
import torch

from compressbench import storage
from compressbench.layers.masked import masked_layers
from compressbench.pruning.masks import removed_count
from methods.baselines.magnitude.method import Magnitude
from tests.contexts import make_context


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_no_removed_weight_is_larger_than_a_kept_one(scope: str, data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    dense = dict(ctx.dense().named_modules())
    layers = masked_layers(Magnitude(Magnitude.Config(sparsity=0.9, scope=scope)).compress(ctx))
    kept = {name: dense[name].weight[layer.mask].abs().min() for name, layer in layers.items()}  # type: ignore[index]
    removed = {name: dense[name].weight[~layer.mask].abs().max() for name, layer in layers.items()}  # type: ignore[index]
    if scope == "global":
        total = sum(layer.weight.numel() for layer in layers.values())
        assert max(removed.values()) <= min(kept.values())
        assert sum(int((~layer.mask).sum()) for layer in layers.values()) == removed_count(total, 0.9)
    else:
        assert all(removed[name] <= kept[name] for name in layers)


def test_quality_without_training_is_recorded_and_recalibrates_only_a_copy(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    model = Magnitude(Magnitude.Config()).compress(ctx)
    assert {"validation_top1_pruned", "validation_top1_recalibrated"} <= set(ctx.records)
    assert torch.equal(model.state_dict()["stem.bn.running_mean"], ctx.dense().state_dict()["stem.bn.running_mean"])


def test_fine_tuning_trains_the_kept_weights_only(data_root: Path, tmp_path: Path) -> None:
    method = Magnitude(Magnitude.Config())
    pruned = method.compress(make_context(data_root, tmp_path))
    storage.save_model(pruned, tmp_path / "pruned")
    tuned = method.finetune(make_context(data_root, tmp_path, "finetune"), storage.load_model(tmp_path / "pruned"))
    for name, layer in masked_layers(tuned).items():
        before = masked_layers(pruned)[name]
        assert torch.equal(layer.mask, before.mask)
        assert (layer.weight[~layer.mask] == 0).all()
        assert not torch.equal(layer.weight, before.weight)
