"""IntraQ (arXiv 2111.09136): zero-shot quantization of weights and activations, first and last layer included."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from compressbench import quality
from compressbench.data import SyntheticImages
from compressbench.data_free.synthesis import (
    SyntheticBatches,
    check_norms,
    check_teacher,
    frozen_teacher,
    labelled_by,
    real_images,
)
from compressbench.layers.quantized import check_activations, insert_quantizers, track_ranges
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.structure import AnyModule
from compressbench.quantization.deployments import quantizer_networks
from compressbench.training import Hook, State
from compressbench.training.distillation import distillation_loss
from methods.intraq import counts
from methods.intraq.config import IntraQConfig
from methods.intraq.generator import calibration_images
from methods.intraq.images import Synthesizer

CALIBRATION_EPOCHS = 4  # the learning-rate milestones count them; `warmup_epochs` in the authors' files is never read


def quantized(model: AnyModule, config: IntraQConfig) -> AnyModule:
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

    Config = IntraQConfig
    config: IntraQConfig

    def check(self, network: Network) -> None:
        check_norms(network)
        check_activations(network)

    def synthesize(self, ctx: Context) -> SyntheticImages:
        teacher = frozen_teacher(ctx)
        config, generator = self.config, ctx.generator("images")
        count, shape = config.batches * config.batch_size, (ctx.info.channels, ctx.info.size, ctx.info.size)
        if config.synthesis == "real":
            return real_images(ctx, count, generator)
        if config.synthesis == "noise":
            return labelled_by(teacher, torch.randn(count, *shape, generator=generator).to(ctx.device))
        synthesizer, made = Synthesizer(teacher, ctx.info.classes, config, generator, ctx.device), []
        for index in range(config.batches):
            batch, metrics = synthesizer.batch(shape)
            made.append(batch)
            if ctx.logger:
                ctx.logger.epoch(index, config.batches, metrics)
        return SyntheticImages(*(torch.cat(parts) for parts in zip(*made, strict=True)))

    def compress(self, ctx: Context) -> Network:
        check_teacher(ctx)
        student = quantized(ctx.dense(), self.config)
        track_ranges(student, True)
        with torch.no_grad():
            for images in self._calibration_images(ctx):
                student(images)
        track_ranges(student, False)
        if ctx.task.labelled:
            ctx.record("before_finetuning_top1", quality.top1(student, ctx.data.test))
        return student

    def _calibration_images(self, ctx: Context) -> Iterator[Tensor]:
        config = self.config
        if config.calibration == "generator":
            return calibration_images(frozen_teacher(ctx), config, ctx.info, ctx.generator("calibration"), ctx.device)
        batches = SyntheticBatches(ctx.synthetic(), config.calibration_batch, config.crop, ctx.seed, "calibration")
        return (batches(step)[0].to(ctx.device) for step in range(config.calibration_steps))

    def finetune(self, ctx: Context, model: Network) -> Network:
        check_teacher(ctx)
        config, recipe = self.config, self.config.finetuning or ctx.recipes.finetune
        teacher = frozen_teacher(ctx)
        batches = SyntheticBatches(ctx.synthetic(), recipe.batch_size, config.crop, ctx.seed, "finetune")

        def loss(student: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            with torch.no_grad():
                target = teacher(batch[0])
            return distillation_loss(student(batch[0]), target, batch[1], config.temperature, config.alpha)

        milestones = config.milestones
        # Eval mode while training: batch norms keep the teacher's statistics.
        return ctx.fit(
            model,
            recipe,
            loss=loss,
            hooks=[] if milestones is None else [Milestones(recipe.lr, milestones)],
            batches=batches,
            schedule="recipe" if milestones is None else None,
            train_mode=False,
        )

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return quantizer_networks()
