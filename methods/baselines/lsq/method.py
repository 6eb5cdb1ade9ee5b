"""LSQ: learned step sizes for the weights and activations of a super-resolution body."""

from typing import Any, Literal

from pydantic import Field
from torch import nn

from compressbench.config import MethodConfig
from compressbench.layers.learned_steps import LearnedStepActivation, LearnedStepConv2d
from compressbench.method import Context, Method
from compressbench.models import Network
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
        settings = {"weight_bits": self.config.bits, "input_bits": self.config.bits}
        model = quantize_points(ctx.dense(), lambda *_: LearnedStepActivation(self.config.bits))
        model = quantize_convolutions(model, lambda _, layer: LearnedStepConv2d.rebuild(layer, settings))
        first_forward(model, ctx.batches(ctx.recipes.finetune)(0)[0].to(ctx.device), train=True)
        return model

    def finetune(self, ctx: Context, model: Network) -> Network:
        recipe = ctx.recipes.finetune
        groups = parameter_groups(model, recipe.lr, self.config.input_lr_ratio)
        loss = teacher_loss(ctx.dense(), self.config.attention_weight)
        return ctx.fit(model, recipe, loss=loss, optimizers=[ctx.optimizer(recipe, groups)])
