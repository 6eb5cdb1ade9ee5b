"""Gradients in the memory format of their activations."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench import models
from compressbench.training.checkpoint import same_bits
from compressbench.training.layout import gradients_like_activations


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_gradients_in_the_format_of_the_activations_change_no_bit(shortcut: str) -> None:
    def train(wrapped: bool) -> tuple[dict[str, Tensor], list[bool]]:
        torch.manual_seed(0)
        model = models.build("resnet_cifar", in_channels=1, blocks=[1, 1, 1], widths=[8, 16, 32], shortcut=shortcut)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer, formats = torch.optim.SGD(model.parameters(), lr=0.1), []
        images, labels = torch.randn(2, 16, 1, 12, 12), torch.arange(16) % 10

        def watch(gradient: Tensor) -> None:
            formats.append(gradient.is_contiguous(memory_format=torch.channels_last))

        def watched(module: nn.Module, inputs: object, output: Tensor) -> None:
            output.register_hook(watch)

        with gradients_like_activations(model) if wrapped else nullcontext():
            watching = [stage[0].relu2.register_forward_hook(watched) for stage in model.stages]
            for batch in images:
                optimizer.zero_grad()
                F.cross_entropy(model(batch), labels).backward()
                optimizer.step()
        for handle in watching:
            handle.remove()
        assert not any(m._forward_hooks for m in model.modules())
        return model.state_dict(), formats

    plain, contiguous = train(wrapped=False)
    followed, formats = train(wrapped=True)
    assert same_bits(plain, followed)
    assert all(formats) and not all(contiguous)


def pooled() -> nn.Module:
    """Global pooling hands its gradient back in the other format."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_only_gradients_of_channels_last_activations_are_turned(layout: torch.memory_format) -> None:
    model, x, formats = pooled().to(memory_format=layout), torch.randn(2, 3, 6, 6).to(memory_format=layout), []

    def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.register_hook(lambda g: formats.append(g.is_contiguous(memory_format=torch.channels_last)))

    with gradients_like_activations(model):
        model[1].register_forward_hook(watch)
        model(x).sum().backward()
    assert formats == [layout == torch.channels_last]


def test_hooks_go_also_when_the_training_fails() -> None:
    model = pooled()
    with pytest.raises(KeyboardInterrupt), gradients_like_activations(model):
        raise KeyboardInterrupt
    assert not any(m._forward_hooks for m in model.modules())
    with gradients_like_activations(model), torch.no_grad():
        model(torch.randn(1, 3, 6, 6))  # nothing to turn without gradients
