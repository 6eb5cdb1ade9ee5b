"""LSQ: learned step sizes for the weights and activations of a super-resolution body."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressbench.config import MethodConfig
from compressbench.layers.learned_steps import LearnedStepActivation, LearnedStepConv2d
from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.quantization.deployments import INT8_NOTE, INTEGER, words
from compressbench.quantization.super_resolution import (
    first_forward,
    quantize_convolutions,
    quantize_points,
    teacher_loss,
)


def parameter_groups(model: nn.Module, lr: float, ratio: float) -> list[dict[str, Any]]:
    """Weights and biases; the weights' step sizes; those of activations, with `ratio` times the rate. Steps do not decay."""
    weight_steps = [m.step for m in model.modules() if isinstance(m, LearnedStepConv2d)]
    input_steps = [m.scalar for m in model.modules() if isinstance(m, LearnedStepActivation)]
    steps = {id(step) for step in (*weight_steps, *input_steps)}
    return [
        {"params": [p for p in model.parameters() if id(p) not in steps and p.requires_grad], "lr": lr},
        {"params": weight_steps, "lr": lr, "weight_decay": 0.0},
        {"params": input_steps, "lr": lr * ratio, "weight_decay": 0.0},
    ]


def quantized(model: Network, bits: int, low: Tensor) -> Network:
    """The body with learned steps, in place, which start on the images `low` [N, C, H, W]."""
    settings = {"weight_bits": bits, "input_bits": bits}
    model = quantize_points(model, lambda *_: LearnedStepActivation(bits))
    model = quantize_convolutions(model, lambda _, layer: LearnedStepConv2d.rebuild(layer, settings))
    first_forward(model, low, train=True)
    return model


@dataclass(frozen=True)
class OnNoise:
    """For `Deployment.compress`: steps that start on noise."""

    bits: int

    def __call__(self, model: Network) -> nn.Module:
        return quantized(model, self.bits, 255 * torch.rand(2, 3, 24, 24))


class LSQ(Method):
    """Compress: the first batch starts the steps. Finetune: all are trained jointly."""

    class Config(MethodConfig):
        """What to quantize how."""

        bits: Literal[2, 3, 4] = Field(description="of weights and activations of the body")
        attention_weight: float = Field(1000.0, ge=0, description="factor of the teacher's attention loss, as in DDTB")
        input_lr_ratio: float = Field(
            100.0, gt=0, description="rate of the activations' steps over that of the weights"
        )

    config: Config

    def compress(self, ctx: Context) -> Network:
        return quantized(ctx.dense(), self.config.bits, ctx.batches(ctx.recipes.finetune)(0)[0].to(ctx.device))

    def finetune(self, ctx: Context, model: Network) -> Network:
        recipe = ctx.recipes.finetune
        groups = parameter_groups(model, recipe.lr, self.config.input_lr_ratio)
        loss = teacher_loss(ctx.dense(), self.config.attention_weight)
        return ctx.fit(model, recipe, loss=loss, optimizers=[ctx.optimizer(recipe, groups)])

    @classmethod
    def deployments(cls) -> list[Deployment]:
        networks = ("EDSR x4", "SRResNet x4")
        return [
            Deployment(NETWORKS[n], words(4, 4), OnNoise(4), INTEGER, representative=n == "EDSR x4", note=INT8_NOTE)
            for n in networks
        ]
