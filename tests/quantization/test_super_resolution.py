"""Which layers of a super-resolution network are quantized, how the quantizers start, and what the teacher adds."""

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.errors import UserError
from compressbench.layers.learned_steps import LearnedStepActivation
from compressbench.models import SuperResolver
from compressbench.quantization.super_resolution import (
    body_convolutions,
    calibrate,
    first_forward,
    quantization_points,
    quantize_convolutions,
    quantize_points,
    teacher_loss,
)
from compressbench.training.checkpoint import same_bits
from compressbench.training.distillation import attention_loss


def edsr(seed: int = 0) -> SuperResolver:
    torch.manual_seed(seed)
    return models.build("edsr", blocks=2, channels=4, scale=2, mean_shift=False)


def patches() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return 255 * torch.rand(2, 3, 6, 6, generator=random), 255 * torch.rand(2, 3, 12, 12, generator=random)


@pytest.mark.parametrize(
    ("network", "convolutions", "points"), [("edsr", 32, 48), ("rdn", 146, 145), ("srresnet", 32, 32)]
)
def test_quantized_layers(network: str, convolutions: int, points: int) -> None:
    with torch.device("meta"):
        model = models.build(network, scale=4)
    assert len(body_convolutions(model)) == convolutions
    assert len(quantization_points(model)) == points


def test_a_network_without_quantization_points_is_refused() -> None:
    with pytest.raises(UserError, match="no quantization points"):
        quantization_points(models.build("plain", in_channels=1))


def test_points_and_convolutions_are_replaced_by_name_and_the_rest_is_left_alone() -> None:
    model, named = edsr(), {}

    def replace(name: str, module: nn.Module) -> nn.Module:
        named[name] = type(module)
        return nn.Sequential(module)

    assert quantize_convolutions(quantize_points(model, replace), replace) is model
    points = [f"blocks.{b}.q{i}" for b in (0, 1) for i in (1, 2, 3)]
    convolutions = [f"blocks.{b}.conv{i}" for b in (0, 1) for i in (1, 2)]
    assert named == dict.fromkeys(points, nn.Identity) | dict.fromkeys(convolutions, nn.Conv2d)
    assert type(model.body_conv) is type(model.head) is type(model.tail) is nn.Conv2d


@pytest.mark.parametrize("train", [False, True])
def test_the_first_pass_starts_quantizers_and_puts_statistics_back(train: bool) -> None:
    torch.manual_seed(0)
    model = models.build("srresnet", blocks=1, channels=4, scale=2)
    quantize_points(model, lambda *_: LearnedStepActivation(3))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [{k: v.clone() for k, v in norm.state_dict().items()} for norm in norms]
    first_forward(model, patches()[0], train)
    assert all(model.get_submodule(name).initialised for name in ("blocks.0.q1", "blocks.0.q2"))
    assert all(same_bits(norm.state_dict(), state) for norm, state in zip(norms, before, strict=True))
    assert not any(module.training for module in model.modules())


def test_calibration_shows_the_first_batches_without_gradients() -> None:
    model, asked, seen = edsr(), [], []

    def batches(step: int) -> tuple[Tensor, Tensor]:
        asked.append(step)
        return patches()

    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    calibrate(model, batches, 3, torch.device("cpu"))
    assert asked == [0, 1, 2] and seen == [False] * 3


def test_the_loss_adds_the_teachers_attention_to_the_absolute_error() -> None:
    student, teacher, (low, high) = edsr(0).eval(), edsr(1).train(), patches()
    error = (student(low) - high).abs().mean()
    attention = attention_loss(student.features(low), teacher.eval().features(low))
    loss = teacher_loss(teacher.train(), 1000.0)
    found = loss(student, (low, high))
    torch.testing.assert_close(found, error + 1000 * attention)
    found.backward()
    assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_without_weight_the_teacher_is_not_asked() -> None:
    student, (low, high) = edsr(), patches()
    assert torch.equal(teacher_loss(nn.Identity(), 0)(student, (low, high)), (student(low) - high).abs().mean())
