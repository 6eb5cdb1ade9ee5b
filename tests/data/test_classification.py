"""Splits, damaged files, and batches as a pure function of the step."""

import pytest
import torch

from compressbench import data
from compressbench.data.classification import random_crop, random_flip
from compressbench.errors import UserError
from compressbench.seeding import generator


def numbered(count: int, channels: int = 1, side: int = 8) -> data.Split:
    """Image i is filled with i and labelled i."""
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, channels, side, side)
    layout = torch.channels_last if channels > 1 else torch.contiguous_format
    return data.Split(images.contiguous(memory_format=layout), torch.arange(count))


def test_a_split_gives_images_by_index_in_batches_and_as_a_smaller_split():
    split, chosen = numbered(7), torch.tensor([5, 0, 5])
    assert split.images_at(chosen)[:, 0, 0, 0].tolist() == [5, 0, 5]
    assert torch.equal(split.images_at(slice(2)), split.images[:2])
    batches = list(split.in_batches(3))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([images for images, _ in batches]), split.images)
    assert split.take(chosen).labels.tolist() == [5, 0, 5] and len(split.take(slice(4))) == 4


def test_one_pass_shows_every_image_once_and_passes_differ():
    batches = data.ClassificationBatches(numbered(20), 5, seed=0)
    passes = [torch.cat([batches(step)[1] for step in range(4 * p, 4 * p + 4)]) for p in range(2)]
    assert batches.steps_per_epoch == 4
    assert all(torch.equal(order.sort().values, torch.arange(20)) for order in passes)
    assert not torch.equal(*passes)


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop_flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_depends_on_nothing_but_seed_and_step(augmentation, channels):
    split = data.Split(torch.randn(40, channels, 16, 16), torch.arange(40))
    first, second = (data.ClassificationBatches(split, 8, seed=3, augmentation=augmentation) for _ in range(2))
    there = [first(step) for step in range(12)]
    back = [second(step) for step in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for x, y in zip(there, back, strict=True) for a, b in zip(x, y, strict=True))
    other = data.ClassificationBatches(split, 8, seed=4, augmentation=augmentation)(0)
    assert not torch.equal(there[0][1], other[1])


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop_flip"])
def test_images_keep_their_labels_and_their_layout(augmentation):
    batches = data.ClassificationBatches(numbered(30, channels=3, side=16), 10, seed=0, augmentation=augmentation)
    images, labels = batches(1)
    assert torch.equal(images[:, 0, 8, 8], labels.float())
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_flip_mirrors_about_half_of_the_images_and_whole_images():
    images = torch.arange(8.0).expand(1_000, 2, 8, 8)
    flipped = random_flip(images, generator(0))
    mirrored = flipped[:, 0, 0, 0] == 7
    assert 400 < mirrored.sum() < 600
    assert torch.equal(flipped[mirrored], images[mirrored].flip(-1))
    assert torch.equal(flipped[~mirrored], images[~mirrored])


def test_crop_is_a_window_of_the_image_padded_with_black():
    image = torch.randn(2, 8, 8)
    black = (-1.5, 2.5)
    padded = torch.tensor(black).view(2, 1, 1).expand(2, 10, 10).clone()
    padded[:, 1:9, 1:9] = image
    windows = {(t, c): padded[:, t : t + 8, c : c + 8] for t in range(3) for c in range(3)}
    crops = random_crop(image.expand(300, -1, -1, -1), 1, black, generator(0))
    found = [next(k for k, w in windows.items() if torch.allclose(w, crop, atol=1e-6)) for crop in crops]
    assert set(found) == set(windows)


@pytest.mark.parametrize("size", [0, 31])
def test_batch_size_that_does_not_fit_is_refused(size):
    with pytest.raises(UserError, match="batch_size"):
        data.ClassificationBatches(numbered(30), size, seed=0)
