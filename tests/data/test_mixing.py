"""Mixup, CutMix, and their boxes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from compressbench.data.mixing import Box, MixedBatches, draw_box, paste, soft_labels


class Source:
    steps_per_epoch = 5

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Image i is all i, and so is its label."""
        labels = torch.arange(4)
        return labels.float()[:, None, None, None].expand(4, 1, 8, 8).clone(), labels


def mixed(mixup: float, cutmix: float, smoothing: float = 0.0) -> MixedBatches:
    return MixedBatches(Source(), 4, smoothing, mixup, cutmix, seed=0)


def test_smoothing_shares_a_part_among_all_classes() -> None:
    assert soft_labels(torch.tensor([1]), 4, 0.1)[0].tolist() == pytest.approx([0.025, 0.925, 0.025, 0.025])


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_are_mixed_as_the_pixels_are(mixup: float, cutmix: float) -> None:
    """The mean of image i is then the mean of its labels."""
    batches = mixed(mixup, cutmix)
    for step in range(20):
        images, labels = batches(step)
        assert torch.allclose(images.mean((1, 2, 3)), (labels * torch.arange(4)).sum(1), atol=1e-5)
        assert torch.allclose(labels.sum(1), torch.ones(4))


def test_cutmix_pastes_whole_pixels_and_mixup_blends_all() -> None:
    assert all(set(mixed(0, 1)(step)[0].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0} for step in range(10))
    assert all(image.unique().numel() == 1 for step in range(10) for image in mixed(0.8, 0)(step)[0])


def test_batches_are_a_pure_function_of_the_step_and_differ() -> None:
    first, again, other = mixed(0.8, 1)(3)[0], mixed(0.8, 1)(3)[0], mixed(0.8, 1)(4)[0]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert mixed(0.8, 1).steps_per_epoch == 5


def test_without_mixing_only_labels_become_soft() -> None:
    images, labels = mixed(0, 0, smoothing=0.2)(0)
    assert torch.equal(images, Source()(0)[0])
    assert torch.equal(labels, soft_labels(torch.arange(4), 4, 0.2))


def test_boxes_have_their_share_of_the_area_unless_cut_off() -> None:
    rng = np.random.default_rng(0)
    areas = [draw_box(20, 20, 0.75, rng).area for _ in range(200)]
    assert max(areas) == 100
    assert draw_box(20, 20, 1.0, rng).area == 0


def test_pasting_twice_undoes_it() -> None:
    grid = torch.randn(4, 3, 6, 6)
    box = Box(1, 4, 2, 6)
    once = paste(grid, box)
    assert torch.equal(once[0, :, 1:4, 2:6], grid[3, :, 1:4, 2:6]) and torch.equal(once[0, :, 0], grid[0, :, 0])
    assert torch.equal(paste(once, box), grid)
