"""MinMax quantization of super-resolution networks, with or without training: per tensor, the observed extremes."""

from typing import Literal

from pydantic import Field

from compressbench.config import MethodConfig
from compressbench.layers.observed import ObservedActivation, observe
from compressbench.layers.quantizers import Scheme
from compressbench.layers.ranged import RangedConv2d
from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.quantization.super_resolution import calibrate, quantize_convolutions, quantize_points, teacher_loss


class MinMaxSR(Method):
    """Compress: the range of every activation over one calibration epoch, of every weight from the weight. Finetune: QAT."""

    class Config(MethodConfig):
        """What to quantize how."""

        bits: Literal[2, 3, 4] = Field(description="of weights and activations of the body")
        scheme: Scheme = Field("symmetric", description="grid of weights and activations")
        trained: bool = Field(True, description="False: post-training quantization")
        attention_weight: float = Field(1000.0, ge=0, description="factor of the teacher's attention loss, as in DDTB")

    config: Config

    def compress(self, ctx: Context) -> Network:
        recipe, batches = ctx.recipes.finetune, ctx.batches(ctx.recipes.finetune)
        bits, scheme = self.config.bits, self.config.scheme
        model = quantize_points(ctx.dense(), lambda _, point: ObservedActivation(bits, scheme).train(point.training))
        observe(model, True)  # the weights are still in full precision
        calibrate(model, batches, recipe.steps_per_epoch or batches.steps_per_epoch, ctx.device)
        observe(model, False)
        weight_range = "symmetric" if scheme == "symmetric" else "minmax"
        settings = {"weight_bits": bits, "input_bits": bits, "percentile": 100.0, "weight_range": weight_range}
        return quantize_convolutions(model, lambda _, layer: RangedConv2d.rebuild(layer, settings))

    def finetune(self, ctx: Context, model: Network) -> Network:
        if not self.config.trained:
            return model
        return ctx.fit(model, ctx.recipes.finetune, loss=teacher_loss(ctx.dense(), self.config.attention_weight))
