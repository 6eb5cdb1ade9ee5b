"""Random blocks: exact counts, seeds."""

from pathlib import Path

import torch

from compressbench.layers.masked import masked_layers
from methods.baselines.random_blocks.method import RandomBlocks
from tests.contexts import make_context


def test_exactly_the_share_of_blocks_is_removed_and_the_seed_decides_which(data_root: Path, tmp_path: Path) -> None:
    method = RandomBlocks(RandomBlocks.Config(n=4, sparsity=0.5))
    first, again, other = (
        masked_layers(method.compress(make_context(data_root, tmp_path, seed=seed))) for seed in (0, 0, 1)
    )
    for name, layer in first.items():
        blocks = layer.mask.reshape(layer.mask.shape[0] // 4, 4, layer.mask.shape[1], -1)
        assert torch.equal(blocks.all(3).all(1), blocks.any(3).any(1))
        assert int(blocks[:, 0, :, 0].sum()) == blocks[:, 0, :, 0].numel() // 2
        assert torch.equal(layer.mask, again[name].mask)
        assert layer.block == 4
    assert any(not torch.equal(layer.mask, other[name].mask) for name, layer in first.items())


def test_masks_stay_in_training(data_root: Path, tmp_path: Path) -> None:
    method = RandomBlocks(RandomBlocks.Config(n=2, sparsity=0.75, rows="uniform"))
    model = method.compress(make_context(data_root, tmp_path))
    before = {name: layer.mask.clone() for name, layer in masked_layers(model).items()}
    tuned = method.finetune(make_context(data_root, tmp_path, "finetune"), model)
    for name, layer in masked_layers(tuned).items():
        assert torch.equal(layer.mask, before[name])
        assert torch.count_nonzero(layer.weight[~layer.mask]) == 0
