"""IntraQ (arXiv 2111.09136): zero-shot quantization of weights and activations, first and last layer included."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressbench import quality
from compressbench.compression.distillation import distillation_loss
from compressbench.compression.quantized_layers import insert_quantizers, track_ranges
from compressbench.compression.synthesis import (
    SyntheticBatches,
    check_teacher,
    frozen_teacher,
    real_images,
)
from compressbench.config import Recipe
from compressbench.finite import best_class
from compressbench.method import Fact, Method, MethodConfig, SyntheticImages
from compressbench.training import Hook, State
from methods.intraq import facts
from methods.intraq.generator import calibration_images
from methods.intraq.images import Synthesizer

if TYPE_CHECKING:
    from compressbench.stages.context import Context

CALIBRATION_EPOCHS = 4  # the learning-rate milestones count them; `warmup_epochs` in the authors' files is never read


def quantized(model: nn.Module, config: "IntraQ.Config") -> nn.Module:
    """`model` with the quantizers of the configuration, in place."""
    return insert_quantizers(
        model, config.weight_bits, config.activation_bits, config.range_tracker, end_weight_bits=config.first_last_bits
    )


class Milestones(Hook):
    """The learning rate of the recipe, a tenth of it after every milestone that the epoch index has reached."""

    def __init__(self, lr: float, milestones: tuple[int, ...]):
        self.lr, self.milestones = lr, milestones

    def rate(self, index: int) -> float:
        """`index` counts the calibration epochs."""
        return self.lr * 0.1 ** sum(index >= m for m in self.milestones)

    def on_epoch_start(self, state: State) -> None:
        for group in state.optimizers[0].param_groups:
            group["lr"] = self.rate(state.epoch + CALIBRATION_EPOCHS)


class IntraQ(Method):
    """Synthesize images, calibrate activation ranges, distil the teacher into its quantized copy."""

    class Config(MethodConfig):
        """Defaults: CIFAR-10."""

        weight_bits: int = Field(4, ge=1, le=16)
        activation_bits: int = Field(4, ge=1, le=16)
        first_last_bits: int | None = Field(
            None, ge=1, le=16, description="weights of first and last layer; default: weight_bits"
        )

        synthesis: Literal["intraq", "bn_ce", "noise", "real"] = Field(
            "intraq",
            description="bn_ce: L_BN + cross-entropy only; noise: Gaussian, labelled by the teacher; real: training images",
        )
        batches: int = Field(
            20, ge=1, description="4 groups of 5 in the paper: one loop, as the groups share their features"
        )
        batch_size: int = Field(256, ge=1, description="synthetic images per batch")
        steps: int = Field(1000, ge=1, description="optimisation steps per batch")
        synthesis_lr: float = Field(0.5, gt=0)
        patience: int = Field(
            50, ge=0, description="steps without progress before the rate drops to a tenth; do not scale with steps"
        )
        eta: float = Field(0.5, gt=0, le=1, description="η: smallest area fraction of a local-object box")
        lambda_lower: float = Field(0.05, ge=0, le=2, description="λ_l: smallest cosine distance to the class centre")
        lambda_upper: float = Field(0.8, ge=0, le=2, description="λ_u: largest")
        epsilon: float = Field(0.95, gt=0, le=1, description="ε: smallest soft target")

        calibration: Literal["generator", "synthetic"] = Field(
            "generator", description="images that set the activation ranges"
        )
        calibration_steps: int = Field(800, ge=1)
        calibration_batch: int = Field(16, ge=2)
        range_tracker: Literal["compounding", "plain"] = Field(
            "compounding", description="compounding needs > 250 steps"
        )

        temperature: float = Field(20, gt=0, description="τ of the distillation")
        alpha: float = Field(20, ge=0, description="α: weight of the distillation term, times τ²")
        crop: float = Field(0.5, gt=0, le=1, description="smallest area fraction of a training box")
        milestones: tuple[int, ...] | None = Field(
            (20, 40, 60),
            description="epochs (calibration's 4 counted) that divide the rate by 10; null: the recipe's schedule",
        )
        finetuning: Recipe | None = Field(None, description="replaces the pair's recipes.finetune")

        @model_validator(mode="after")
        def _ordered(self) -> "IntraQ.Config":
            if self.lambda_lower > self.lambda_upper:
                raise ValueError(
                    f"lambda_lower ({self.lambda_lower}) must not exceed lambda_upper ({self.lambda_upper})"
                )
            return self

    config: Config

    def synthesize(self, ctx: "Context") -> SyntheticImages:
        teacher = frozen_teacher(ctx)
        config, generator = self.config, ctx.generator("images")
        count, shape = config.batches * config.batch_size, (ctx.info.channels, ctx.info.size, ctx.info.size)
        if config.synthesis == "real":
            return real_images(ctx, count, generator)
        if config.synthesis == "noise":
            images = torch.randn(count, *shape, generator=generator).to(ctx.device)
            with torch.no_grad():
                labels = [best_class(teacher(part), "the teacher") for part in images.split(256)]
            return SyntheticImages(images, torch.cat(labels))
        synthesizer, made = Synthesizer(teacher, ctx.info.classes, config, generator, ctx.device), []
        for index in range(config.batches):
            batch, metrics = synthesizer.batch(shape)
            made.append(batch)
            if ctx.logger:
                ctx.logger.epoch(index, config.batches, metrics)
        return SyntheticImages(*(torch.cat(parts) for parts in zip(*made, strict=True)))

    def compress(self, ctx: "Context") -> nn.Module:
        check_teacher(ctx)
        student = quantized(ctx.dense(), self.config)
        track_ranges(student, True)
        with torch.no_grad():
            for images in self._calibration_images(ctx):
                student(images)
        track_ranges(student, False)
        ctx.record("before_finetuning_top1", quality.top1(student, ctx.data.test))
        return student

    def _calibration_images(self, ctx: "Context") -> Iterator[Tensor]:
        config = self.config
        if config.calibration == "generator":
            return calibration_images(frozen_teacher(ctx), config, ctx.info, ctx.generator("calibration"), ctx.device)
        batches = SyntheticBatches(ctx.synthetic(), config.calibration_batch, config.crop, ctx.seed, "calibration")
        return (batches(step)[0].to(ctx.device) for step in range(config.calibration_steps))

    def finetune(self, ctx: "Context", model: nn.Module) -> nn.Module:
        check_teacher(ctx)
        config, recipe = self.config, self.config.finetuning or ctx.recipes.finetune
        teacher = frozen_teacher(ctx)
        batches = SyntheticBatches(ctx.synthetic(), recipe.batch_size, config.crop, ctx.seed, "finetune")

        def loss(student: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            with torch.no_grad():
                target = teacher(batch[0])
            return distillation_loss(student(batch[0]), target, batch[1], config.temperature, config.alpha)

        # Eval mode while training: batch norms keep the teacher's statistics.
        stepwise = config.milestones is not None
        return ctx.fit(
            model,
            recipe,
            loss=loss,
            hooks=[Milestones(recipe.lr, config.milestones)] if stepwise else [],  # type: ignore[arg-type]
            batches=batches,
            schedule=None if stepwise else "recipe",
            train_mode=False,
        )

    @classmethod
    def facts(cls) -> list[Fact]:
        return facts.recompute()
