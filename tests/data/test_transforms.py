"""From pixels of any size to a network's input."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compressbench.data import Preprocessing
from compressbench.data.transforms import centre, mirrored, normalise, random_part

HOW = Preprocessing(24, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def smooth(height: int, width: int) -> Tensor:
    """A photograph's worth of colour, uint8 [3, H, W]."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    return ((torch.stack([y.sin(), x.cos(), (x * y).sin()]) + 1) * 127).to(torch.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(40, 70), (90, 50), (20, 20)])
def test_evaluation_resizes_the_shorter_side_and_cuts_the_centre_as_pillow_does(height, width, interpolation):
    image = smooth(height, width)
    how = Preprocessing(24, 32, HOW.mean, HOW.std, interpolation)
    shorter = min(height, width)
    size = tuple(int(32 * side / shorter) for side in (width, height))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, filters[interpolation])
    left, top = (round((side - 24) / 2) for side in size)
    expected = np.asarray(resized.crop((left, top, left + 24, top + 24))).astype(int)
    assert abs(centre(image, how).permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_a_random_part_depends_on_its_seed_alone():
    image = smooth(60, 80)
    torch.manual_seed(1)
    first = random_part(image, 24, seed=7)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # the training's numbers are not touched
    torch.manual_seed(2)
    assert torch.equal(random_part(image, 24, seed=7), first) and first.shape == (3, 24, 24)
    assert not torch.equal(random_part(image, 24, seed=8), first)


def test_random_parts_are_of_all_sizes_and_half_of_them_mirrored():
    columns = torch.arange(200, dtype=torch.float32).expand(3, 200, 200)
    parts = torch.stack([random_part(columns, 50, seed=seed) for seed in range(300)])
    width = (parts[:, 0, 25, -1] - parts[:, 0, 25, 0]) * 50 / 49
    assert 100 < (width < 0).sum() < 200
    share = (width / 200) ** 2  # of the image, but for the aspect ratio
    assert share.min() > 0.08 * 3 / 4 - 0.01 and share.max() > 0.8 and share.std() > 0.15


def test_half_of_the_images_are_mirrored():
    image = torch.arange(4).expand(1, 2, 4)
    found = [mirrored(image, seed)[0, 0, 0].item() for seed in range(200)]
    assert set(found) == {0, 3} and 70 < found.count(3) < 130


def test_pixels_are_scaled_and_normalised_by_channel():
    images = [smooth(24, 24), smooth(24, 24).flip(1)]
    expected = (torch.stack(images) / 255 - torch.tensor(HOW.mean).view(1, 3, 1, 1)) / torch.tensor(HOW.std).view(
        1, 3, 1, 1
    )
    found = normalise(images, HOW)
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    assert normalise([], HOW).shape == (0, 3, 24, 24)
