"""A pointwise and a depthwise convolution together have the bits of one after the other."""

import pytest
import torch

from compressbench.kernels import native
from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.kernels.depthwise import DepthwiseConv2d
from compressbench.kernels.expanded import ExpandedDepthwise
from compressbench.pruning.blocks import encode_bsr, random_block_mask

pytestmark = pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")


def layers(isa: native.Isa, stride: int = 1, kernel: int = 3) -> tuple[BlockSparseConv2d, DepthwiseConv2d]:
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 5, 1, 1, generator=rng)
    mask = random_block_mask(weight, 4, 0.5, rng)
    first = BlockSparseConv2d(encode_bsr(weight * mask, mask, 4), None, (5, 13, 19), clip=(0, 6), isa=isa)
    depthwise = torch.randn(24, 1, kernel, kernel, generator=rng)
    return first, DepthwiseConv2d(depthwise, None, first.output_shape, stride=stride, padding=kernel // 2, isa=isa)


@pytest.mark.parametrize(
    "isa", [i for i in native.Isa if 0 <= i <= native.best_isa()], ids=lambda isa: isa.name.lower()
)
@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 5), (2, 5)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_has_the_bits_of_the_layers_one_after_the_other(isa, stride: int, kernel: int, threads: int) -> None:
    first, second = layers(isa, stride, kernel)
    pair, x = ExpandedDepthwise(first, second), torch.randn(2, 5, 13, 19, generator=torch.Generator().manual_seed(1))
    expected = second(first(x))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(pair(x), expected)
        assert torch.equal(pair.tune()(x), expected)
    finally:
        torch.set_num_threads(before)


def test_layers_that_do_not_follow_each_other_are_refused() -> None:
    first, second = layers(native.best_isa())
    other = DepthwiseConv2d(torch.randn(24, 1, 3, 3), None, (24, 13, 18))
    with pytest.raises(ValueError, match="pointwise convolution"):
        ExpandedDepthwise(first, other)
    copied = BlockSparseConv2d(
        encode_bsr(torch.randn(24, 5, 1, 1), torch.ones(24, 5, 1, 1, dtype=torch.bool), 4), None, (5, 26, 38), stride=2
    )
    assert copied.output_shape == second.input_shape and first.direct
    with pytest.raises(ValueError, match="pointwise convolution"):
        ExpandedDepthwise(copied, second)
