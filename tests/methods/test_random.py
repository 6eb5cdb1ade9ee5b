"""Random masks: exact counts per layer, seeded, fixed for the whole run."""

from pathlib import Path

import torch

from compressbench import storage
from compressbench.layers.masked import masked_layers
from compressbench.pruning.masks import removed_count
from methods.baselines.random.method import Random
from tests.contexts import make_context


def test_every_layer_loses_the_same_share_and_stays_so_through_training(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    model = Random(Random.Config(sparsity=0.95)).compress(ctx)
    for name, layer in masked_layers(model).items():
        count = layer.weight.numel()
        assert int(layer.mask.sum()) == count - removed_count(count, 0.95)
        assert (layer.weight[~layer.mask] == 0).all()
        assert ctx.records[f"density_{name}"] == float(layer.mask.float().mean())


def test_masks_depend_on_the_seed_and_the_stored_model_needs_no_method(data_root: Path, tmp_path: Path) -> None:
    models = [
        Random(Random.Config()).compress(make_context(data_root, tmp_path / str(seed), seed=seed)) for seed in (0, 1)
    ]
    masks = [masked_layers(m)["classifier"].mask for m in models]
    assert not torch.equal(*masks)
    storage.save_model(models[0], tmp_path / "stored")
    assert torch.equal(masked_layers(storage.load_model(tmp_path / "stored"))["classifier"].mask, masks[0])


def test_first_and_last_layer_stay_dense_on_request(data_root: Path, tmp_path: Path) -> None:
    model = Random(Random.Config(keep_first=True, keep_last=True)).compress(make_context(data_root, tmp_path))
    assert len(masked_layers(model)) == 6
    assert "classifier" not in masked_layers(model)
