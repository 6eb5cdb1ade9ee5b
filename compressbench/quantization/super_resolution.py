"""Shared by the quantizers of super-resolution networks: choice and replacement of layers, and the teacher's attention."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.layers.registry import replace_module
from compressbench.models import Network
from compressbench.models.structure import AnyModule
from compressbench.training.distillation import attention_loss


def quantization_points(model: nn.Module) -> list[str]:
    """The identities named q... inside the body, in forward order: EDSR 3 per block, SRResNet 2, RDN 9 and a global one."""
    names = [
        name for name, m in model.named_modules() if type(m) is nn.Identity and name.rpartition(".")[2].startswith("q")
    ]
    if not names:
        raise UserError(
            "this network has no quantization points: the method wants edsr, rdn or srresnet; correct its runs."
        )
    return names


def body_convolutions(model: nn.Module) -> list[str]:
    """The convolutions of the blocks, and RDN's two global ones; head, last body convolution, upsampler and tail are not."""
    return [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and name.startswith(("blocks.", "global_")) and "gate" not in name
    ]


Replacement = Callable[[str, nn.Module], nn.Module]


def quantize_points(model: AnyModule, activation: Replacement) -> AnyModule:
    """Replace every quantization point, in place, by `activation(name, identity)`."""
    for name in quantization_points(model):
        replace_module(model, name, activation(name, model.get_submodule(name)))
    return model


def quantize_convolutions(model: AnyModule, weight: Replacement) -> AnyModule:
    """Replace every body convolution, in place, by `weight(name, convolution)`."""
    for name in body_convolutions(model):
        replace_module(model, name, weight(name, model.get_submodule(name)))
    return model


@torch.no_grad()
def calibrate(model: nn.Module, batches: Callable[[int], Any], steps: int, device: torch.device) -> None:
    """Forward passes over the low-resolution patches of the first `steps` batches, without gradients."""
    for step in range(steps):
        model(batches(step)[0].to(device))


@torch.no_grad()
def first_forward(model: nn.Module, low: Tensor, train: bool) -> None:
    """One forward pass in which quantizers start; batch-norm statistics are put back. Leaves the model in eval mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [{k: v.clone() for k, v in norm.state_dict().items()} for norm in norms]
    model.train(train)(low)
    for norm, state in zip(norms, before, strict=True):
        norm.load_state_dict(state)
    model.eval()


def teacher_loss(teacher: Network, weight: float) -> Callable[[nn.Module, Any], Tensor]:
    """|S(x) - high|_1 + weight · attention_loss of the bodies' features; weight 0 leaves the teacher out."""
    teacher = teacher.eval().requires_grad_(False)

    def loss(student: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        low, high = batch
        features = student.features(low)
        value = F.l1_loss(student.reconstruct(features), high)
        if not weight:
            return value
        with torch.no_grad():
            target = teacher.features(low)
        return value + weight * attention_loss(features, target)

    return loss
