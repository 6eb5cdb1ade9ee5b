"""Models in channels_last, and gradients in the memory format of the activations that they belong to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.models.structure import AnyModule

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.PReLU)


def channels_last(model: AnyModule) -> AnyModule:
    """The model with every weight of four dimensions in channels_last, in place; returns it."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this one


@contextmanager
def gradients_like_activations(model: nn.Module) -> Iterator[None]:
    """While it is open, the gradient of an activation in channels_last arrives in channels_last.

    Global pooling and zero-padded shortcuts hand theirs back in the other format, and an elementwise operation on two formats
    takes seven times as long as on one: a tenth of a training step of a small residual network. No gradient that arrives
    changes; a later sum over a map, such as that of White-Box's masks, may add up in another order.
    """
    handles = [m.register_forward_hook(_follow) for m in model.modules() if isinstance(m, ACTIVATIONS)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _follow(module: nn.Module, inputs: Any, output: Tensor) -> None:
    if output.requires_grad and output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last):
        output.register_hook(_channels_last)


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
