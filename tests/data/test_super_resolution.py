"""Pairs of photographs and aligned patches."""

import pytest
import torch

from compressbench import data
from compressbench.data.super_resolution import ImagePair
from compressbench.errors import UserError


def addressed(height: int, width: int, upscaling: int) -> ImagePair:
    """Every low-resolution pixel has its own value, and its high-resolution pixels have the same."""
    low = torch.arange(3 * height * width).float().view(3, height, width)
    return ImagePair("addressed", low, low.repeat_interleave(upscaling, 1).repeat_interleave(upscaling, 2))


@pytest.mark.parametrize("upscaling", [2, 3, 4])
def test_patches_are_aligned_after_every_turn(upscaling):
    batches = data.PatchBatches([addressed(11, 17, upscaling)], upscaling, patch=6, batch_size=64, seed=0)
    low, high = batches(0)
    assert low.shape == (64, 3, 6, 6) and high.shape == (64, 3, 6 * upscaling, 6 * upscaling)
    assert torch.equal(low.repeat_interleave(upscaling, 2).repeat_interleave(upscaling, 3), high)


def test_all_eight_turns_and_all_places_occur():
    low, _ = data.PatchBatches([addressed(5, 6, 2)], 2, patch=4, batch_size=600, seed=0)(0)
    turns = {(int(p[0, 0, 1] - p[0, 0, 0]), int(p[0, 1, 0] - p[0, 0, 0])) for p in low}
    assert turns == {(a, b) for x in (1, -1) for y in (6, -6) for a, b in ((x, y), (y, x))}
    assert {int(p[0].min()) for p in low} == {0, 1, 2, 6, 7, 8}


def test_a_batch_depends_on_nothing_but_seed_and_step(photographs):
    first, second = (data.PatchBatches(photographs.train, 2, 16, 4, seed=1) for _ in range(2))
    late = [second(step) for step in (9, 0)]
    assert all(torch.equal(a, b) for a, b in zip(first(0), late[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first(9), late[0], strict=True))
    assert not torch.equal(first(0)[0], first(1)[0])


def test_patch_that_does_not_fit_is_refused():
    for patch in (0, 12):
        with pytest.raises(UserError, match="patch"):
            data.PatchBatches([addressed(11, 17, 2)], 2, patch, 4, seed=0)
    with pytest.raises(UserError, match="enlarged by 4"):
        data.PatchBatches([addressed(11, 17, 2)], 4, 4, 4, seed=0)
