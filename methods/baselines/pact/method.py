"""PACT with DoReFa's weights: one trained clip point per activation of a super-resolution body."""

from typing import Any, Literal

from pydantic import Field
from torch import nn

from compressbench.config import MethodConfig
from compressbench.layers.learned_steps import PACT_START, DorefaConv2d, PactActivation
from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.quantization.super_resolution import (
    first_forward,
    quantize_convolutions,
    quantize_points,
    teacher_loss,
)


def parameter_groups(model: nn.Module, lr: float, ratio: float) -> list[dict[str, Any]]:
    """Weights and biases; the clip points with `ratio` times the rate, decayed like the weights."""
    alphas = [m.scalar for m in model.modules() if isinstance(m, PactActivation)]
    known = {id(alpha) for alpha in alphas}
    rest = [p for p in model.parameters() if id(p) not in known and p.requires_grad]
    return [{"params": rest, "lr": lr}, {"params": alphas, "lr": lr * ratio}]


class PACT(Method):
    """Compress: the first batch shows which inputs are never negative. Finetune: weights and clipping bounds are trained."""

    class Config(MethodConfig):
        """What to quantize how."""

        bits: Literal[2, 3, 4] = Field(description="of weights and activations of the body")
        start_at: float | None = Field(
            PACT_START, gt=0, description="first α; null: the first batch's largest magnitude"
        )
        rescale: bool = Field(True, description="weights keep their magnitude; False: DoReFa's [-1, 1]")
        attention_weight: float = Field(1000.0, ge=0, description="factor of the teacher's attention loss, as in DDTB")
        alpha_lr_ratio: float = Field(100.0, gt=0, description="rate of the clip points over that of the weights")

    config: Config

    def compress(self, ctx: Context) -> Network:
        config = self.config
        settings = {"weight_bits": config.bits, "input_bits": config.bits, "rescale": config.rescale}
        model = quantize_points(ctx.dense(), lambda *_: PactActivation(config.bits, start_at=config.start_at))
        model = quantize_convolutions(model, lambda _, layer: DorefaConv2d.rebuild(layer, settings))
        first_forward(model, ctx.batches(ctx.recipes.finetune)(0)[0].to(ctx.device), train=True)
        return model

    def finetune(self, ctx: Context, model: Network) -> Network:
        recipe = ctx.recipes.finetune
        groups = parameter_groups(model, recipe.lr, self.config.alpha_lr_ratio)
        loss = teacher_loss(ctx.dense(), self.config.attention_weight)
        return ctx.fit(model, recipe, loss=loss, optimizers=[ctx.optimizer(recipe, groups)])
