"""1xN blocks: masks, rearrangement, storage."""

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.errors import UserError
from compressbench.models import Coupling
from compressbench.pruning.blocks import (
    block_mask,
    block_scores,
    block_statistics,
    connected_share,
    encode_bsr,
    prunable_layers,
    random_block_mask,
    rearranged_block_mask,
    rearrangement,
    removed_blocks,
)


def weight(c_out: int = 64, c_in: int = 12, k: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(c_out, c_in, k, k, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.7, 0.9])
def test_mask_is_constant_on_every_block_and_removes_the_exact_number(n: int, k: int, sparsity: float) -> None:
    w = weight(k=k)
    mask = block_mask(w, n, sparsity)
    blocks = mask.reshape(64 // n, n, 12, k * k)
    assert torch.equal(blocks.all(3).all(1), blocks.any(3).any(1))
    assert int((~blocks.any(3).any(1)).sum()) == int(sparsity * (12 * 64 // n))


def test_blocks_of_one_are_kernels_and_blocks_of_all_outputs_are_input_channels() -> None:
    w = weight()
    assert torch.equal(block_scores(w, 1).reshape(12, 64).t(), w.abs().sum((2, 3)))
    per_input = block_mask(w, 64, 0.5).flatten(2).any(2)
    assert torch.equal(per_input.all(0), per_input.any(0))


def test_every_kept_block_scores_at_least_as_high_as_every_dropped_one() -> None:
    w = weight()
    kept = block_mask(w, 4, 0.7)[::4, :, 0, 0]
    norms = w.abs().sum((2, 3)).reshape(16, 4, 12).sum(1)
    assert norms[kept].min() >= norms[~kept].max()


def test_rates_zero_and_one() -> None:
    assert block_mask(weight(), 4, 0).all()
    assert not block_mask(weight(), 4, 1).any()


@pytest.mark.parametrize("sparsity", [-0.1, 1.1])
def test_rates_outside_zero_to_one_are_errors(sparsity: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        block_mask(weight(), 4, sparsity)


def test_blocks_that_do_not_fit_are_errors_that_name_the_layer() -> None:
    with pytest.raises(UserError, match=r"stage\.conv: n = 16 does not divide its 24"):
        block_mask(weight(24, 8), 16, 0.5, name="stage.conv")
    with pytest.raises(UserError, match="at least 1"):
        block_mask(weight(), 0, 0.5)
    with pytest.raises(UserError, match="15 kernels"):
        block_mask(weight(5, 3), 2, 0.5, straddle=True)


def test_ties_fall_in_the_order_of_input_channels() -> None:
    mask = block_mask(torch.ones(4, 3, 1, 1), 2, 0.5)[::2, :, 0, 0]
    assert mask.tolist() == [[False, False, True], [False, True, True]]


def test_straddling_blocks_are_runs_of_n_kernels_with_the_input_channel_slow() -> None:
    w = weight(24, 8, 1)
    flat = w[:, :, 0, 0].abs().t().flatten()
    assert torch.allclose(block_scores(w, 16, straddle=True), flat.reshape(12, 16).sum(1))
    mask = block_mask(w, 16, 0.5, straddle=True)
    runs = mask[:, :, 0, 0].t().reshape(12, 16)
    assert torch.equal(runs.all(1), runs.any(1)) and int(runs.all(1).sum()) == 6
    assert torch.equal(block_mask(w, 8, 0.5, straddle=True), block_mask(w, 8, 0.5)), "no difference where n divides"


def test_uniform_rows_drop_equally_many_blocks_of_every_output_group() -> None:
    kept = block_mask(weight(), 16, 0.9, rows="uniform")[::16, :, 0, 0]
    assert int((~kept).sum()) == removed_blocks(48, 0.9) == 43
    assert set(kept.sum(1).tolist()) <= {1, 2}


def test_random_blocks_are_drawn_without_replacement() -> None:
    first = random_block_mask(weight(), 4, 0.5, torch.Generator().manual_seed(0))
    second = random_block_mask(weight(), 4, 0.5, torch.Generator().manual_seed(1))
    assert int((~first[::4, :, 0, 0]).sum()) == int((~second[::4, :, 0, 0]).sum()) == 96
    assert not torch.equal(first, second)


def test_sorted_filters_need_no_rearrangement() -> None:
    w = weight()
    w = w[rearrangement(w)]
    assert torch.equal(rearranged_block_mask(w, 4, 0.5), block_mask(w, 4, 0.5))


def test_rearranged_mask_follows_a_permutation_of_the_filters() -> None:
    w, order = weight(), torch.randperm(64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(rearranged_block_mask(w[order], 4, 0.5), rearranged_block_mask(w, 4, 0.5)[order])


def test_rearrangement_keeps_more_of_layers_whose_filters_differ_in_strength() -> None:
    strength = torch.rand(64, 1, 1, 1, generator=torch.Generator().manual_seed(4)) ** 3
    w = weight() * strength
    kept = [float((w.abs() * mask(w, 4, 0.5)).sum()) for mask in (rearranged_block_mask, block_mask)]
    assert kept[0] > kept[1]


def test_the_papers_figure_encodes_to_its_pointers_and_indices() -> None:
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[:4, [0, 2, 3, 5]] = True
    mask[4:, [1, 4]] = True
    encoded = encode_bsr(weight(8, 6, 1)[:, :, 0, 0], mask, 4)
    assert encoded.indptr.tolist() == [0, 4, 6]
    assert encoded.indices.tolist() == [0, 2, 3, 5, 1, 4]
    assert encoded.data.shape == (6, 4)


@pytest.mark.parametrize("k", [1, 3])
def test_encoded_blocks_decode_and_multiply_like_the_masked_weight(k: int) -> None:
    w = weight(k=k)
    mask = block_mask(w, 4, 0.7)
    encoded, dense = encode_bsr(w, mask, 4), (w * mask).flatten(1)
    assert torch.equal(encoded.decode(), dense)
    x = torch.randn(dense.shape[1], 9, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(encoded.matmul(x), dense @ x, atol=1e-4)


def test_empty_output_groups_are_encoded() -> None:
    w = weight()
    mask = torch.zeros_like(w, dtype=torch.bool)
    mask[16:20, 3] = True
    encoded = encode_bsr(w, mask, 4)
    assert encoded.indptr.tolist() == [0] * 5 + [9] * 12
    assert torch.equal(encoded.decode(), (w * mask).flatten(1))


def test_blocks_are_consecutive_only_after_a_physical_permutation() -> None:
    w = weight(24, 8, 1, seed=7)
    order, mask = rearrangement(w), rearranged_block_mask(w, 4, 0.5)
    assert len(encode_bsr(w[order], mask[order], 4).indices) == 24
    assert len(encode_bsr(w, mask, 4).indices) > 35


def test_stored_bytes_are_four_per_number_index_and_pointer() -> None:
    w = weight(16, 8, 1)
    assert encode_bsr(w, block_mask(w, 4, 0.5), 4).stored_bytes == 4 * (64 + 16 + 5)


def test_statistics_of_a_pattern() -> None:
    w = torch.ones(8, 4, 1, 1)
    mask = torch.zeros_like(w, dtype=torch.bool)
    mask[:4, :2] = True
    measured = block_statistics([(w, mask)], 4)
    assert measured == {"empty_groups": 0.5, "unread_inputs": 0.5, "kept_l1": 0.25, "group_spread": 1.0}


def test_connected_kernels_lie_on_a_path_through_the_layers() -> None:
    first, second, third = (torch.zeros(2, 2, 1, 1, dtype=torch.bool) for _ in range(3))
    first[0] = True  # its second output channel is empty
    second[:, 1] = True  # reads only that channel: idle, so nothing of the first layer is read either
    third[:] = True
    links = [Coupling("a", None, ("b",)), Coupling("b", None, ("c",)), Coupling("c", None, ("classifier",))]
    assert connected_share({"a": first, "b": second, "c": third}, links) == 0
    second[0, 0] = True  # a path: input -> a0 -> b0 -> every c
    assert connected_share({"a": first, "b": second, "c": third}, links) == (2 + 1 + 2) / (2 + 3 + 4)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet50"])
def test_first_depthwise_and_classifier_layers_are_never_prunable(name: str) -> None:
    with torch.device("meta"):
        network = models.build(name)
    layers = [network.get_submodule(n) for n in prunable_layers(network)]
    assert all(isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels > 3 for m in layers)
    assert len(layers) == {"mobilenet_v2": 34, "mobilenet_v3_small": 40, "resnet50": 52}[name]
    assert len(prunable_layers(network, classifier=True)) > len(layers)
