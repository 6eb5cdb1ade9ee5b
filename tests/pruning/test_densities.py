"""How many weights each layer keeps."""

import pytest
import torch
from torch import nn

from compressbench import accounting, models
from compressbench.pruning.densities import erk_densities, kept_counts, random_positions, whole_counts
from compressbench.pruning.masks import prunable, removed_count

SHAPES = {
    "stem": torch.Size((16, 1, 3, 3)),
    "stages.0.conv1": torch.Size((16, 16, 3, 3)),
    "stages.0.conv2": torch.Size((16, 16, 3, 3)),
    "stages.1.conv1": torch.Size((32, 16, 3, 3)),
    "stages.1.conv2": torch.Size((32, 32, 3, 3)),
    "stages.2.conv1": torch.Size((64, 32, 3, 3)),
    "stages.2.conv2": torch.Size((64, 64, 3, 3)),
    "classifier": torch.Size((10, 64, 1, 1)),
}
DENSITIES = [1.0, 0.2522, 0.2522, 0.1792, 0.1161, 0.0846, 0.0556, 1.0]


def resnet50() -> nn.Module:
    with torch.device("meta"):
        return models.build("resnet50")


def test_erk_densities_of_the_example() -> None:
    found = erk_densities(SHAPES, 0.1)
    assert list(found) == list(SHAPES)
    assert list(found.values()) == pytest.approx(DENSITIES, abs=5e-5)
    assert found["stem"] == found["classifier"] == 1.0
    total = sum(shape.numel() for shape in SHAPES.values())
    assert sum(d * SHAPES[name].numel() for name, d in found.items()) == pytest.approx(0.1 * total)


def test_a_linear_layer_counts_as_a_convolution_of_one_pixel() -> None:
    linear = SHAPES | {"classifier": torch.Size((10, 64))}
    assert erk_densities(linear, 0.1) == erk_densities(SHAPES, 0.1)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.9, 0.95, 0.98])
def test_erk_keeps_the_exact_count_of_the_whole_network(sparsity: float) -> None:
    shapes = {name: layer.weight.shape for name, layer in prunable(resnet50()).items()}
    kept, total = kept_counts(shapes, sparsity, "erk"), 25502912
    assert sum(kept.values()) == total - removed_count(total, sparsity)
    densities = erk_densities(shapes, 1 - sparsity)
    assert all(abs(kept[name] - densities[name] * shape.numel()) <= 1 for name, shape in shapes.items())


def test_uniform_keeps_the_same_share_of_every_layer_but_the_first() -> None:
    kept = kept_counts(SHAPES, 0.9, "uniform")
    assert kept["stem"] == 144
    assert kept["stages.0.conv1"] == 2304 - 2073
    assert kept["classifier"] == 64


@pytest.mark.parametrize(
    ("sparsity", "erk", "uniform"), [(0.8, 0.42, 0.23), (0.9, 0.24, 0.13), (0.95, 0.12, 0.08), (0.965, 0.09, 0.07)]
)
def test_macs_of_resnet50_are_those_that_the_authors_print(sparsity: float, erk: float, uniform: float) -> None:
    """Their counter adds normalisation and activations, which are little."""
    model = resnet50()
    shapes = {name: layer.weight.shape for name, layer in prunable(model).items()}
    rows = [row for row in accounting.layer_table(model, (3, 224, 224)) if row.name in shapes]
    for distribution, share in (("erk", erk), ("uniform", uniform)):
        kept = kept_counts(shapes, sparsity, distribution)
        macs = sum(kept[row.name] * row.positions for row in rows)
        assert macs / 4089184256 == pytest.approx(share, abs=0.01)


def test_rounding_favours_the_largest_remainders() -> None:
    assert whole_counts({"a": 4.0, "b": 1.5, "c": 2.75, "d": 0.75}, 9) == {"a": 4, "b": 1, "c": 3, "d": 1}


def test_first_positions_are_random_with_exact_counts() -> None:
    kept = kept_counts(SHAPES, 0.9, "erk")
    one, other = (random_positions(SHAPES, kept, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert {name: int(mask.sum()) for name, mask in one.items()} == kept
    assert not torch.equal(one["stages.2.conv2"], other["stages.2.conv2"])
