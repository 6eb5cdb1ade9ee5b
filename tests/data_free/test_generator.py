"""GDFQ's generator: sizes, normalised images, class-conditional norms."""

import pytest
import torch
from torch import nn

from compressbench.data_free.generator import NOISE, ConditionalNorm, Generator


@pytest.mark.parametrize(("arguments", "count"), [((1000, 3, 224), 41_405_315), ((10, 1, 28), 861_825)])
def test_parameters_of_the_conditional_generator(arguments: tuple[int, int, int], count: int) -> None:
    with torch.device("meta"):
        generator = Generator(*arguments, True)
    assert sum(p.numel() for p in generator.parameters()) == count
    assert arguments[0] == 10 or sum(p.numel() for p in generator.project.parameters()) == 40_542_208


def test_images_are_normalised_and_labels_matter_once_the_embeddings_differ() -> None:
    torch.manual_seed(0)
    generator = Generator(10, 2, 16, True, 8).train()
    noise = torch.randn(16, NOISE)
    zeros, ones = torch.zeros(16, dtype=torch.long), torch.ones(16, dtype=torch.long)
    images = generator(noise, zeros)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.var((0, 2, 3)), torch.ones(2), atol=0.01, rtol=0)
    assert torch.equal(generator(noise, ones), images)
    nn.init.constant_(generator.norm1.scale.weight[1:2].detach(), 1.5)  # type: ignore[union-attr,index]
    nn.init.constant_(generator.norm1.shift.weight[1:2].detach(), 0.5)  # type: ignore[union-attr,index]
    assert not torch.allclose(generator(noise, ones), images)


@pytest.mark.parametrize(
    ("classes", "size", "conditional", "expected"), [(10, 32, False, 1_052_139), (100, 32, False, 1_061_139)]
)
def test_generator_parameters(classes, size, conditional, expected):
    generator = Generator(classes, 3, size, conditional)
    assert sum(p.numel() for p in generator.parameters()) == expected
    images = generator(torch.randn(4, 100), torch.tensor([0, 1, 2, 3]))
    assert images.shape == (4, 3, size, size)
    assert abs(images.mean()) < 1e-5


def test_class_conditional_generator():
    assert Generator(10, 1, 28, True)(torch.randn(3, 100), torch.tensor([0, 1, 9])).shape == (3, 1, 28, 28)
    with pytest.raises(ValueError, match="multiple of 4"):
        Generator(10, 1, 30, True)


def test_without_conditional_norms_the_noise_is_multiplied_by_the_embedding_of_its_class() -> None:
    torch.manual_seed(0)
    generator = Generator(2, 1, 8, False, 4).eval()
    generator.embedding.weight.data[1] = 0
    one, other = torch.randn(2, 1, NOISE)
    labels = torch.tensor([0, 1])
    (a0, a1), (b0, b1) = (generator(noise.expand(2, -1), labels) for noise in (one, other))
    assert torch.equal(a1, b1) and not torch.equal(a0, b0)
    embedded, generator.embedding.weight.data[0] = one * generator.embedding.weight[0], 1
    torch.testing.assert_close(generator(embedded, labels[:1])[0], a0)


def test_a_conditional_norm_scales_and_shifts_every_image_by_its_class() -> None:
    norm, x = ConditionalNorm(3, 2).train(), torch.randn(6, 2, 4, 4)
    plain = nn.functional.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(norm(x, torch.arange(6) % 3), plain)
    norm.scale.weight.data[2], norm.shift.weight.data[2] = torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 0.5])
    y = norm(x, torch.tensor([0, 2, 1, 2, 0, 0]))
    torch.testing.assert_close(y[[0, 2, 4, 5]], plain[[0, 2, 4, 5]])
    torch.testing.assert_close(y[[1, 3], 1], 3 * plain[[1, 3], 1] + 0.5)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_norms_between_the_convolutions_have_the_authors_eps(conditional: bool) -> None:
    generator = Generator(2, 1, 8, conditional, 4)
    norms = [m.eps for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [1e-5, 0.8, 0.8, 1e-5]
