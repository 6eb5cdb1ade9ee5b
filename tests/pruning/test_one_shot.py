"""What pruning in one shot is worth before any training."""

import copy
from pathlib import Path

import torch

from compressbench.layers.masked import masked
from compressbench.pruning.one_shot import record_untrained_quality
from compressbench.training.checkpoint import same_bits
from tests.contexts import make_context


def test_both_accuracies_are_recorded_and_the_pruned_network_keeps_its_statistics(
    data_root: Path, tmp_path: Path
) -> None:
    ctx = make_context(data_root, tmp_path)
    pruned = masked(ctx.dense())
    for layer in (pruned.stem.conv, pruned.classifier):
        layer.mask[:2] = False
    before = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
    record_untrained_quality(ctx, pruned)
    assert same_bits(pruned.state_dict(), before)
    recalibrated = ctx.recalibrate(copy.deepcopy(pruned))
    assert not torch.equal(recalibrated.stem.bn.running_var, pruned.stem.bn.running_var)
    assert ctx.records == {
        "validation_top1_pruned": ctx.validate(pruned)["validation_top1"],
        "validation_top1_recalibrated": ctx.validate(recalibrated)["validation_top1"],
    }


def test_without_held_out_images_nothing_is_recorded(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    ctx.validate = lambda model: {}  # type: ignore[method-assign]
    record_untrained_quality(ctx, masked(ctx.dense()))
    assert ctx.records == {}
