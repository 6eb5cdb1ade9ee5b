"""Packed weights: as many bytes as the bits say, and the same weights when they come back."""

import pytest
import torch
from torch import nn

from compressbench import accounting
from compressbench.layers.learned_steps import DorefaConv2d, LearnedStepConv2d
from compressbench.layers.packing import PackedWeight, pack_blocks, pack_weight, packed_tensors
from compressbench.layers.quantized import mask_quantized_layer, quantize_layer
from compressbench.layers.quantizers import positive
from compressbench.layers.ranged import RangedConv2d
from compressbench.pruning.blocks import random_block_mask


def quantized_layers(bits: int) -> dict[str, nn.Module]:
    def convolution() -> nn.Conv2d:
        return nn.Conv2d(7, 5, 3)

    ranged = {"weight_bits": bits, "input_bits": bits, "percentile": 99.0}
    layers = {
        "span": quantize_layer(convolution(), bits, bits),
        "span linear": quantize_layer(nn.Linear(11, 3), bits, bits),
        "lsq": LearnedStepConv2d.rebuild(convolution(), {"weight_bits": bits, "input_bits": bits}),
        "dorefa": DorefaConv2d.rebuild(convolution(), {"weight_bits": bits, "input_bits": bits, "rescale": True}),
        "percentile": RangedConv2d.rebuild(convolution(), ranged | {"weight_range": "percentile"}),
        "symmetric": RangedConv2d.rebuild(convolution(), ranged | {"weight_range": "symmetric"}),
    }
    for scheme in ("asymmetric", "symmetric"):
        layer = quantize_layer(convolution(), bits, bits, scheme)
        layer.weight_scale.copy_(torch.rand(5, 1, 1, 1) / 20 + 0.01)
        layers[scheme] = layer
    return layers


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_packed_weight_comes_back_and_has_the_bytes_that_accounting_counts(bits: int) -> None:
    torch.manual_seed(bits)
    for name, layer in quantized_layers(bits).items():
        stored = pack_weight(layer)
        torch.testing.assert_close(
            stored.weight(), layer.effective_weight().detach(), msg=lambda m, n=name: f"{n}: {m}"
        )
        assert int(stored.codes().max()) < 2**bits, name
        assert stored.packed.numel() == accounting.layer_bytes(layer), name


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("weight_range", ["percentile", "minmax"])
def test_a_range_of_plus_and_minus_one_number_is_stored_with_one_bit_more(bits: int, weight_range: str) -> None:
    """2^bits + 1 values: half-way ties at both bounds round away from each other."""
    half = torch.rand(150, generator=torch.Generator().manual_seed(bits))
    half[:10] = 1.0  # both bounds, as an extreme and as a percentile
    convolution = nn.Conv2d(6, 50, 1)
    convolution.weight.data = torch.cat([half, -half]).reshape(50, 6, 1, 1)
    settings = {"weight_bits": bits, "input_bits": bits, "percentile": 99.0, "weight_range": weight_range}
    layer = RangedConv2d.rebuild(convolution, settings)
    assert len(layer.effective_weight().unique()) == 2**bits + 1
    stored = pack_weight(layer)
    torch.testing.assert_close(stored.weight(), layer.effective_weight().detach())
    assert stored.bits == layer.stored_bits == bits + 1
    assert stored.packed.numel() == accounting.layer_bytes(layer) == -(-300 * (bits + 1) // 8)
    layer.weight.data[:2] *= 2
    assert layer.stored_bits == accounting.stored_bits(layer) == bits, "the range is no longer symmetric"


def special_filters() -> nn.Conv2d:
    """A convolution whose first filters are dead, constant and tiny."""
    layer = nn.Conv2d(7, 5, 3)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 0, 0.1
        layer.weight[2] *= 1e-9
    return layer


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_dead_a_constant_and_a_tiny_filter_spoil_none_of_the_others(bits: int) -> None:
    torch.manual_seed(bits)
    layer = quantize_layer(special_filters(), bits, bits)
    stored, weight = pack_weight(layer), layer.effective_weight().detach()
    for filters in ((0, 1), (2,), (3, 4)):  # each kind by its own magnitude
        own = torch.tensor(filters)
        torch.testing.assert_close(
            stored.weight()[own], weight[own], rtol=1e-6, atol=1e-6 * float(weight[own].abs().max())
        )
    assert torch.equal(stored.weight()[:2], weight[:2])
    torch.testing.assert_close(weight[:2], layer.weight.detach()[:2])
    alone = quantize_layer(nn.Conv2d(7, 2, 3), bits, bits)
    alone.weight.data = layer.weight.data[3:]
    assert torch.equal(stored.codes()[3:], pack_weight(alone).codes())


@pytest.mark.parametrize("bits", [2, 4])
def test_whole_layers_of_one_value_pack_as_they_are(bits: int) -> None:
    for value in (0.0, 0.3, -1e-30):
        for name, layer in quantized_layers(bits).items():
            layer.weight.data.fill_(value)
            assert torch.equal(pack_weight(layer).weight(), layer.effective_weight().detach()), f"{name} of {value}"


def test_the_bits_of_a_weight_follow_each_other_lowest_first() -> None:
    packed = torch.tensor([0b10_001_111, 0b1_0], dtype=torch.uint8)  # 7, 1, then 2 across the border of the bytes
    stored = PackedWeight(packed, torch.tensor(-1.0), torch.tensor(0.5), 3, torch.Size([3]))
    assert stored.codes().tolist() == [7, 1, 2]
    assert stored.weight().tolist() == [2.5, -0.5, 0.0]


def test_a_model_is_stored_packed_but_for_its_other_tensors() -> None:
    model = nn.Sequential(quantize_layer(nn.Conv2d(8, 16, 3), 4, 4), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
    tensors = packed_tensors(model)
    assert tensors["0.packed"].numel() * 2 == 8 * 16 * 9
    assert "0.weight" not in tensors
    assert tensors["2.weight"] is model.state_dict()["2.weight"] or tensors["2.weight"].equal(model[2].weight)
    assert {"0.bias", "1.weight", "1.running_mean"} <= tensors.keys()


def test_weights_off_their_grid_and_too_many_bits_are_refused() -> None:
    layer = quantize_layer(nn.Conv2d(3, 4, 3), 4, 4)
    layer.effective_weight = lambda: layer.weight  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="do not lie on a grid of 4 bits"):
        pack_weight(layer)
    layer.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        pack_weight(layer)
    with pytest.raises(ValueError, match="16 bits cannot be packed"):
        pack_weight(quantize_layer(nn.Conv2d(3, 4, 3), 16, 16))


# ---- blocks


def blocks_of(shape: tuple[int, ...], block: int, kept: float, bits: int = 8, rows: str = "ranked") -> nn.Module:
    """A quantized convolution with random blocks."""
    torch.manual_seed(bits)
    convolution = nn.Conv2d(shape[1], shape[0], shape[2])
    mask = random_block_mask(convolution.weight.detach(), block, 1 - kept, torch.default_generator, rows)
    convolution.weight.data *= mask
    layer = quantize_layer(convolution, bits, bits, "symmetric")
    largest = convolution.weight.detach().abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
    layer.weight_scale.copy_(positive(largest / (2 ** (bits - 1) - 1)))
    return mask_quantized_layer(layer, mask, block)


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("rows", ["ranked", "uniform"])
@pytest.mark.parametrize(("shape", "block", "kept"), [((32, 24, 1), 16, 0.25), ((8, 6, 3), 4, 0.5), ((16, 4, 3), 8, 0)])
def test_packed_blocks_come_back_to_the_bit_and_have_the_bytes_that_accounting_counts(
    shape: tuple[int, ...], block: int, kept: float, rows: str, bits: int
) -> None:
    layer = blocks_of(shape, block, kept, bits, rows)
    stored = pack_blocks(layer)
    assert torch.equal(stored.weight(), layer.effective_weight().detach())
    parts = (stored.packed, stored.indices, stored.indptr, stored.step)
    assert sum(t.numel() * t.element_size() for t in parts) == accounting.layer_bytes(layer, "bsr")
    assert len(stored.indices) * block == int(layer.mask.sum())
    assert (len(stored.indptr) == 0) == (layer.mask[::block].flatten(1).sum(1).unique().numel() == 1)


def test_a_model_is_stored_with_its_kept_blocks_where_they_take_fewer_bytes_than_all_weights() -> None:
    few, many = blocks_of((16, 32, 1), 16, 0.25), blocks_of((16, 32, 1), 4, 0.75)  # an index takes as much as 4 weights
    tensors = packed_tensors(nn.Sequential(few, many))
    assert {"0.packed", "0.indices", "0.indptr", "0.step"} <= tensors.keys()
    assert not {"0.weight", "0.mask", "0.weight_scale"} & tensors.keys() and "0.bias" in tensors
    assert {"1.packed", "1.low", "1.step", "1.mask"} <= tensors.keys() and "1.indices" not in tensors
    assert accounting.layer_bytes(many) < accounting.layer_bytes(many, "bsr")


def test_only_whole_blocks_on_a_symmetric_grid_are_packed() -> None:
    layer = blocks_of((8, 6, 1), 4, 0.5)
    layer.mask[0] = ~layer.mask[0]
    with pytest.raises(ValueError, match="not constant on blocks of 4"):
        pack_blocks(layer)
    ones = torch.ones(8, 6, 1, 1, dtype=torch.bool)
    for scheme, block in (("asymmetric", 4), ("symmetric", None)):
        with pytest.raises(ValueError, match="symmetric grid"):
            pack_blocks(mask_quantized_layer(quantize_layer(nn.Conv2d(6, 8, 1), 8, 8, scheme), ones, block))
