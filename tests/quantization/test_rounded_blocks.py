"""Networks with blocks, quantized after training: removed blocks stay 0, the rest is the suite's post-training quantization."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from compressbench import accounting, storage
from compressbench.errors import UserError
from compressbench.layers.folding import FoldedNorm
from compressbench.layers.masked import masked_layers
from compressbench.layers.quantized import QuantMaskedConv2d
from compressbench.method import Context
from compressbench.pruning.blocks import prunable_layers, random_block_mask, weights_of
from compressbench.pruning.masks import apply_masks
from compressbench.quantization.post_training import calibration_ranges, quantize_post_training
from compressbench.quantization.rounded_blocks import post_training_config, round_finished, round_on
from methods.baselines.random_blocks.method import RandomBlocks
from methods.one_by_n.method import OneByN
from methods.subp.method import SUBP
from tests.contexts import make_context
from tests.contexts.calibration import CTX, X

BLOCK, SPARSITY = 4, 0.75


def pruned() -> nn.Module:
    model, generator = CTX.dense(), torch.Generator().manual_seed(0)
    weights = weights_of(model, prunable_layers(model))
    return apply_masks(model, {n: random_block_mask(w, BLOCK, SPARSITY, generator) for n, w in weights.items()}, BLOCK)


def rounded(bits: int = 8) -> nn.Module:
    return round_finished(SimpleNamespace(**vars(CTX), finished=pruned), bits)


def blocks(model: nn.Module) -> dict[str, QuantMaskedConv2d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantMaskedConv2d)}


def test_removed_blocks_are_zero_and_the_others_are_those_of_post_training_quantization() -> None:
    model, config = rounded(), post_training_config(8)
    plain = CTX.dense()
    plain.load_state_dict({k: t for k, t in pruned().state_dict().items() if not k.endswith(".mask")})
    plain = quantize_post_training(plain, calibration_ranges(plain, CTX, config, "minmax"), config, "minmax").eval()
    masks = {name: layer.mask for name, layer in masked_layers(pruned()).items()}
    assert blocks(model).keys() == masks.keys() and len(masks) == 8
    for name, layer in blocks(model).items():
        weight = layer.effective_weight()
        assert torch.equal(layer.mask, masks[name]) and layer.block == BLOCK
        assert not weight[~layer.mask].any() and weight[layer.mask].any()
        assert layer.weight_bits == layer.input_bits == 8
    assert torch.equal(model(X), plain(X))


def test_eight_bits_change_the_outputs_little_and_batch_norms_are_folded() -> None:
    model, expected = rounded(), pruned().eval()(X)
    assert (model(X) - expected).norm() < 0.05 * expected.norm()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert sum(isinstance(m, FoldedNorm) for m in model.modules()) == 9


def test_kept_blocks_are_counted_and_stored_at_their_bits() -> None:
    masked, model = pruned(), rounded()
    costs, before = accounting.account(model, (1, 16, 16)), accounting.account(masked, (1, 16, 16))
    assert (costs.macs, costs.kept_weights) == (before.macs, before.kept_weights)
    assert costs.bit_operations == 8 * 8 * before.macs
    assert costs.stored_bytes < before.stored_bytes / 2


def test_a_stored_network_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = rounded()
    storage.save_model(model, tmp_path)
    loaded = storage.load_model(tmp_path)
    assert torch.equal(loaded(X), model(X))
    assert {name: layer.block for name, layer in blocks(loaded).items()} == dict.fromkeys(blocks(model), BLOCK)


def test_any_images_set_the_ranges() -> None:
    model = round_on(pruned().eval(), X, 8)
    assert torch.equal(model.stem.conv.input_scale, rounded().stem.conv.input_scale)
    assert torch.equal(model(X), rounded()(X)) and not torch.equal(model(X), rounded(4)(X))


def finished(ctx: Context, model: nn.Module) -> Context:
    """The context of the setting that rounds it."""
    ctx.finished_folder = ctx.folder / "finished"
    storage.save_model(model, ctx.finished_folder)
    return ctx


@pytest.mark.parametrize("method", [OneByN, RandomBlocks, SUBP])
def test_methods_round_the_network_that_they_have_finished(method: type, data_root: Path, tmp_path: Path) -> None:
    options = {"n": BLOCK, "sparsity": SPARSITY}
    if method is SUBP:
        options |= {"initialisation": "shared", "slices": 4, "start": 1, "end": 2}
    ctx = make_context(data_root, tmp_path)
    trained = method(method.Config(**options)).compress(ctx)
    own = method(method.Config(**options, bits=8))
    own.check(ctx.build())
    model = own.compress(finished(ctx, trained))
    masks: dict[str, Tensor] = {name: layer.mask for name, layer in masked_layers(trained).items()}
    assert masks and all(torch.equal(layer.mask, masks[name]) for name, layer in blocks(model).items())
    assert blocks(model).keys() == masks.keys()
    with pytest.raises(UserError, match="network_from"):
        own.compress(make_context(data_root, tmp_path))
