"""The block-sparse kernel against float64, on every build that this machine runs, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.block_sparse import BLOCK_SIZES, BlockSparseConv2d, most_vectors
from compressbench.pruning.blocks import BlockSparse, encode_bsr, random_block_mask

INF = float("inf")


def runnable() -> list[native.Isa]:
    return [isa for isa in native.Isa if isa <= native.best_isa()]


@st.composite
def layers(draw):
    """Sizes with odd ends, strides, empty rows, and images smaller than a vector."""
    n = draw(st.sampled_from(BLOCK_SIZES))
    kernel, stride = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel - 1))
    side = st.integers(max(1, kernel - 2 * padding), 19)
    return {
        "n": n, "c_out": n * draw(st.integers(1, 3)), "c_in": draw(st.integers(1, 19)), "kernel": kernel,
        "stride": stride, "padding": padding, "height": draw(side), "width": draw(side),
        "batch": draw(st.integers(1, 3)), "sparsity": draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        "rows": draw(st.sampled_from(["ranked", "uniform"])), "threads": draw(st.integers(1, 3)),
        "clip": draw(st.sampled_from([(-INF, INF), (0.0, INF), (0.0, 6.0)])), "seed": draw(st.integers(0, 2**20)),
        "residual": draw(st.booleans()), "even_rows": draw(st.booleans()),
    }  # fmt: skip


@pytest.mark.parametrize("isa", runnable(), ids=lambda isa: isa.name.lower())
@settings(max_examples=200, deadline=None)
@given(layer=layers())
def test_it_convolves_like_float64(isa: native.Isa, layer: dict) -> None:
    rng = torch.Generator().manual_seed(layer["seed"])
    shape = layer["c_out"], layer["c_in"], layer["kernel"], layer["kernel"]
    weight, bias = torch.randn(shape, generator=rng), torch.randn(layer["c_out"], generator=rng)
    mask = random_block_mask(weight, layer["n"], layer["sparsity"], rng, layer["rows"])
    x = torch.randn(layer["batch"], layer["c_in"], layer["height"], layer["width"], generator=rng)
    expected = F.conv2d(x.double(), (weight * mask).double(), bias.double(), layer["stride"], layer["padding"])
    residual = torch.randn(expected.shape, generator=rng) if layer["residual"] else None
    expected = (expected + (0 if residual is None else residual)).clamp(*layer["clip"])
    convolution = BlockSparseConv2d(
        encode_bsr(weight, mask, layer["n"]), bias, x.shape[1:], kernel=layer["kernel"], stride=layer["stride"],
        padding=layer["padding"], clip=layer["clip"], isa=isa, even_rows=layer["even_rows"],
    )  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(layer["threads"])
    try:
        result = convolution(x, residual)
    finally:
        torch.set_num_threads(before)
    assert result.shape == expected.shape
    assert (result - expected).norm() <= 1e-4 * expected.norm().clamp_min(1e-3)


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_every_register_tile_gives_the_same_result() -> None:
    weight = torch.randn(16, 8, 1, 1)
    x = torch.randn(1, 8, 23, 23)
    for n in BLOCK_SIZES[:5]:
        blocks = encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), n)
        rows = BlockSparseConv2d(blocks, None, x.shape[1:]).rows
        most = most_vectors(native.best_isa(), rows)
        for vectors in range(1, most + 1):
            for group in (1, 3, 100):
                convolution = BlockSparseConv2d(blocks, None, x.shape[1:], vectors=vectors, group=group)
                torch.testing.assert_close(convolution(x), F.conv2d(x, weight), rtol=1e-4, atol=1e-5)


def encoded(n: int = 4) -> BlockSparse:
    weight = torch.randn(8, 6, 1, 1)
    return encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), n)


def test_wrong_sizes_layouts_and_indices_are_refused_before_the_kernel_sees_them() -> None:
    convolution = BlockSparseConv2d(encoded(), None, (6, 5, 5))
    good = torch.randn(1, 6, 5, 5)
    for bad in (
        torch.randn(1, 5, 5, 5), good.double(), torch.randn(1, 6, 5, 10)[..., ::2],
        good.expand(2, -1, -1, -1), torch.randn(1, 6, 5, 5).contiguous(memory_format=torch.channels_last),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="x must"):
            convolution(bad)
    with pytest.raises(ValueError, match="out must"):
        convolution(good, out=torch.empty(1, 8, 5, 4))
    with pytest.raises(ValueError, match="residual must"):
        convolution(good, residual=torch.empty(1, 8, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"indices": torch.full((12,), 6, dtype=torch.int32)}, "column lies outside"),
        ({"indices": torch.full((12,), -1, dtype=torch.int32)}, "column lies outside"),
        ({"indptr": torch.tensor([0, 20, 12], dtype=torch.int32)}, "indptr falls"),
        ({"indptr": torch.tensor([0, 6, 13], dtype=torch.int32)}, "indptr does not describe"),
        ({"data": torch.randn(12, 4).double()}, "float32"),
        ({"data": torch.randn(12, 3)}, "blocks of 3"),
        ({"shape": (8, 7)}, "do not fit"),
    ],
)
def test_damaged_blocks_are_refused(change: dict, sentence: str) -> None:
    blocks = encoded()
    parts = {"data": blocks.data, "indices": blocks.indices, "indptr": blocks.indptr, "shape": blocks.shape} | change
    with pytest.raises(ValueError, match=sentence):
        BlockSparseConv2d(BlockSparse(**parts), None, (6, 5, 5))


def test_the_image_must_be_as_large_as_the_kernel() -> None:
    weight = torch.randn(8, 6, 3, 3)
    blocks = encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), 4)
    with pytest.raises(ValueError, match="does not fit"):
        BlockSparseConv2d(blocks, None, (6, 2, 2), kernel=3)


def test_the_figure_of_the_paper() -> None:
    """1xN, figure of the storage format: N = 4, the first group reads inputs 1, 3, 4 and 6 of 6, the second 2 and 5."""
    kept = torch.zeros(8, 6, 1, 1, dtype=torch.bool)
    kept[:4, [0, 2, 3, 5]] = True
    kept[4:, [1, 4]] = True
    weight, x = torch.arange(1.0, 49.0).reshape(8, 6, 1, 1), torch.randn(1, 6, 3, 5)
    blocks = encode_bsr(weight, kept, 4)
    assert blocks.indptr.tolist() == [0, 4, 6]
    assert blocks.indices.tolist() == [0, 2, 3, 5, 1, 4]
    torch.testing.assert_close(BlockSparseConv2d(blocks, None, (6, 3, 5))(x), F.conv2d(x, weight * kept))
