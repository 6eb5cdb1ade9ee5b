"""SNIP: connection sensitivity of the untouched initialisation."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from compressbench import models
from compressbench.layers.masked import masked_layers
from compressbench.pruning.masks import global_masks, kept_weights, prunable, removed_count
from methods.baselines.snip.method import Snip, balanced_sample, connection_gradients, saliencies
from tests.contexts import RESNET, make_context


def cross_entropy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def example() -> tuple[nn.Module, list[str], tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = models.build("resnet_cifar", **RESNET).double()
    return model, list(prunable(model)), (torch.randn(64, 1, 16, 16).double(), torch.randint(10, (64,)))


def test_connection_gradient_is_weight_times_gradient_and_the_model_is_left_alone() -> None:
    model, names, batch = example()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = connection_gradients(model, names, [batch], cross_entropy)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    cross_entropy(model.train(), batch).backward()
    for name in names:
        weight = model.get_submodule(name).weight
        assert torch.allclose(found[name], weight * weight.grad, atol=1e-10)  # type: ignore[operator,arg-type]


def test_batches_give_the_gradient_of_the_mean_loss_over_all_images() -> None:
    model, names, (images, labels) = example()
    parts = [(images[:40], labels[:40]), (images[40:], labels[40:])]
    found = connection_gradients(model, names, parts, cross_entropy)
    for share, part in zip((40 / 64, 24 / 64), parts, strict=True):
        for name, own in connection_gradients(model, names, [part], cross_entropy).items():
            found[name] = found[name] - share * own
    assert all(torch.allclose(left, torch.zeros_like(left), atol=1e-12) for left in found.values())


def test_saliencies_sum_to_one_and_rank_as_the_plain_gradients() -> None:
    model, names, batch = example()
    gradients = connection_gradients(model, names, [batch], cross_entropy)
    scores = saliencies(gradients)
    assert abs(sum(s.sum().item() for s in scores.values()) - 1) < 1e-12
    plain = global_masks({name: g.abs() for name, g in gradients.items()}, 0.9)
    assert all(torch.equal(mask, plain[name]) for name, mask in global_masks(scores, 0.9).items())


def test_signed_gradients_of_a_normalised_filter_cancel() -> None:
    model, names, batch = example()
    gradients = connection_gradients(model, names, [batch], cross_entropy)
    for name in names[:-1]:  # the classifier has no batch normalisation behind it
        g = gradients[name].flatten(1)
        assert (g.sum(1).abs() <= 1e-3 * g.abs().sum(1)).all()


def test_sample_is_balanced_and_random() -> None:
    labels = torch.arange(10).repeat_interleave(torch.arange(60, 160, 10))
    generator = torch.Generator().manual_seed(0)
    chosen = balanced_sample(labels, 512, generator)
    counts = torch.bincount(labels[chosen], minlength=10)
    assert len(chosen.unique()) == 512
    assert counts.max() - counts.min() <= 1
    assert not torch.equal(chosen.sort().values, balanced_sample(labels, 512, generator).sort().values)


def test_training_starts_from_the_shared_initialisation_with_exact_fixed_masks(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, lr=1e-12, weight_decay=0.0)
    model = Snip(Snip.Config(sparsity=0.95)).compress(ctx)
    start = dict(ctx.build().named_modules())
    layers = masked_layers(model)
    total = sum(layer.weight.numel() for layer in layers.values())
    assert kept_weights(model) == total - removed_count(total, 0.95)
    for name, layer in layers.items():
        expected = start[name].weight * layer.mask  # type: ignore[operator]
        assert torch.allclose(layer.weight, expected, atol=1e-6)
