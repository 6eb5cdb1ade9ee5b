"""FDDA (arXiv 2109.04186): generator and quantized student are trained in turns, from one real image per class."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from compressbench import quality
from compressbench.config import Recipe
from compressbench.data import SyntheticImages
from compressbench.data_free.boxes import Boxes, random_boxes
from compressbench.data_free.generator import Generator
from compressbench.data_free.synthesis import SyntheticBatches, check_norms, check_teacher, frozen_teacher
from compressbench.errors import UserError
from compressbench.layers.quantized import check_activations, insert_quantizers, track_ranges
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.quantization.deployments import quantizer_networks
from compressbench.seeding import generator
from compressbench.training import schedule_factor
from compressbench.training.distillation import distillation_loss
from methods.fdda import counts
from methods.fdda.centres import calibration_indices, class_centres
from methods.fdda.config import FDDAConfig
from methods.fdda.generation import Draw, Draws, GeneratorLoss, Joint, Rate, Trainee, describe, sample, student_batch

AUGMENTED_BOX = 0.5  # smallest area fraction of the box of augment_generated


class FDDA(Method):
    """Align generated images with class centres, calibrate activation ranges, distil into the quantized copy."""

    Config = FDDAConfig
    config: FDDAConfig

    def check(self, network: Network) -> None:
        check_norms(network)
        check_activations(network)

    def synthesize(self, ctx: Context) -> SyntheticImages:
        """The calibration list and the generator are kept beside its images."""
        config, labels = self.config, ctx.data.train.labels
        index = calibration_indices(labels, ctx.info.classes, config.images_per_class, ctx.generator("calibration"))
        ctx.keep("calibration", {"index": index})
        draws, generator_loss = self._generator_training(ctx, index)
        trainee, steps = Trainee.fresh(ctx, config), _steps_per_epoch(ctx)

        def loss(model: Generator, batch: tuple[Tensor, ...]) -> Tensor:
            return generator_loss(model, Draw(*batch)).loss

        self._fit_generator(ctx, trainee.generator, trainee.optimizer, loss, draws, config.warmup_epochs, steps)
        trainee.generator.train()
        trainee.keep(ctx)
        describe(ctx, generator_loss, trainee.generator, _half_batch(ctx))
        return sample(trainee.generator, config.images, _half_batch(ctx), ctx.info.classes, ctx.generator("images"))

    def undivided(self) -> str:
        return "they hold noise, statistics and images, which have different numbers of rows"

    def _fit_generator(
        self,
        ctx: Context,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[..., Tensor],
        draws: Draws,
        epochs: int,
        steps: int,
    ) -> None:
        """From its first step on, the generator alone learns; the images have no accuracy to validate."""
        ctx.fit(
            model,
            ctx.recipes.finetune,
            name="generator",
            loss=loss,
            optimizers=[optimizer],
            hooks=[Rate(optimizer, self.generator_rate(ctx))],
            batches=draws,
            epochs=epochs,
            steps_per_epoch=steps,
            schedule=None,
            validate=lambda _: {},
        )

    def compress(self, ctx: Context) -> Network:
        check_teacher(ctx)
        config = self.config
        student = insert_quantizers(
            ctx.dense(),
            config.weight_bits,
            config.activation_bits,
            end_weight_bits=config.first_last_bits,
            end_activation_bits=config.first_last_bits,
        )
        track_ranges(student, True)
        if config.range_source == "generated_early":
            self._track_in_training(ctx, student)
        else:
            with torch.no_grad():
                for images in self._range_images(ctx):
                    student(images)
        track_ranges(student, False)
        ctx.record("before_finetuning_top1", quality.top1(student, ctx.data.test))
        return student

    def _track_in_training(self, ctx: Context, student: Network) -> None:
        """The first steps of the generator once more, to the bit, this time with the student looking on."""
        draws, generator_loss = self._generator_training(ctx, ctx.kept("calibration")["index"])
        trainee = Trainee.fresh(ctx, self.config)

        def loss(joint: Joint, batch: tuple[Tensor, ...]) -> Tensor:
            generated = generator_loss(joint.generator, Draw(*batch))
            with torch.no_grad():
                joint.student(generated.images)
            return generated.loss

        joint = Joint(student, trainee.generator)  # one model, so that a checkpoint has the ranges too
        self._fit_generator(ctx, joint, trainee.optimizer, loss, draws, 1, self.config.range_steps)

    def _range_images(self, ctx: Context) -> Iterator[Tensor]:
        """`range_steps` batches of stored or of calibration images."""
        steps = range(self.config.range_steps)
        if self.config.range_source == "generated_end_of_warmup":
            stored = ctx.synthetic().images.split(_half_batch(ctx))
            return (stored[step % len(stored)].to(ctx.device) for step in steps)
        batches = self._real_batches(ctx, "ranges")
        return (batches(step)[0].to(ctx.device) for step in steps)

    def finetune(self, ctx: Context, model: Network) -> Network:
        check_teacher(ctx)
        if self.config.finetuning == "none":
            return model
        optimizer = ctx.optimizer(ctx.recipes.finetune, model.parameters())
        hook, real = Rate(optimizer, self.student_rate(ctx)), self._real_batches(ctx, "finetune")
        if self.config.finetuning == "calibration":
            return self._finetune_on_calibration(ctx, model, optimizer, hook, real)
        return self._finetune_in_turns(ctx, model, optimizer, hook, real)

    def _finetune_on_calibration(
        self, ctx: Context, model: Network, optimizer: torch.optim.Optimizer, hook: Rate, real: SyntheticBatches
    ) -> Network:
        """The baseline: distillation on the few real images."""
        teacher = frozen_teacher(ctx)

        def loss(student: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            with torch.no_grad():
                target = teacher(batch[0])
            return self._student_loss(student(batch[0]), target, batch[1])

        return ctx.fit(
            model,
            ctx.recipes.finetune,
            loss=loss,
            optimizers=[optimizer],
            hooks=[hook],
            batches=real,
            steps_per_epoch=_steps_per_epoch(ctx),
            schedule=None,
            train_mode=False,
        )

    def _finetune_in_turns(
        self, ctx: Context, model: Network, optimizer: torch.optim.Optimizer, hook: Rate, real: SyntheticBatches
    ) -> Network:
        """A generator step and a student step in each iteration, on the same generated images.

        They reach the student detached and as the generator was before its step, so that the gradients of loss_G + L_S are
        those of both: one backward pass does for two.
        """
        draws, generator_loss = self._generator_training(ctx, ctx.kept("calibration")["index"])
        trainee, generator_rate = Trainee.kept(ctx, self.config), self.generator_rate(ctx)
        past = self.config.warmup_epochs * _steps_per_epoch(ctx)

        def loss(joint: Joint, batch: tuple) -> Tensor:
            *drawn, images, labels, box = batch
            draw = Draw(*drawn)
            generated = generator_loss(joint.generator, draw)
            inputs, target = student_batch(generator_loss.teacher, images, generated, box)
            labels = torch.cat([labels, draw.labels])
            return generated.loss + self._student_loss(joint.student(inputs), target, labels)

        joint = Joint(model, trainee.generator)
        ctx.fit(
            joint,
            ctx.recipes.finetune,
            loss=loss,
            optimizers=[optimizer, trainee.optimizer],
            hooks=[hook, Rate(trainee.optimizer, lambda step: generator_rate(past + step))],
            batches=lambda step: (*draws(past + step), *real(step), self._box(ctx, step)),
            steps_per_epoch=_steps_per_epoch(ctx),
            schedule=None,
            validate=lambda joint: ctx.validate(joint.student),
        )
        return joint.student

    def _student_loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return distillation_loss(student, teacher, labels, self.config.temperature, self.config.alpha)

    def _box(self, ctx: Context, step: int) -> Boxes | None:
        """One box for the whole generated half, where it is augmented."""
        if not self.config.augment_generated:
            return None
        return random_boxes(1, ctx.info.size, ctx.info.size, AUGMENTED_BOX, generator(ctx.seed, "fdda", "box", step))

    def _generator_training(self, ctx: Context, index: Tensor) -> tuple[Draws, GeneratorLoss]:
        """Against the teacher and the centres of the calibration images `index`."""
        teacher = frozen_teacher(ctx)
        centres = class_centres(teacher, _calibration(ctx, index), ctx.info.classes)
        draws = Draws(ctx.seed, _half_batch(ctx), _steps_per_epoch(ctx), centres)
        return draws, GeneratorLoss(teacher, centres, self.config)

    def _real_batches(self, ctx: Context, purpose: str) -> SyntheticBatches:
        """The calibration images, augmented: half a batch, or all where there are fewer."""
        calibration = _calibration(ctx, ctx.kept("calibration")["index"])
        return SyntheticBatches(calibration, _half_batch(ctx), self.config.crop, ctx.seed, purpose)

    def generator_rate(self, ctx: Context) -> Callable[[int], float]:
        """Step, counted from the start of the warm-up -> learning rate: a tenth from every milestone on."""
        config, length = self.config, _steps_per_epoch(ctx)
        return lambda step: config.generator_lr * 0.1 ** sum(step // length >= m for m in config.generator_milestones)

    def student_rate(self, ctx: Context) -> Callable[[int], float]:
        """Step of the student -> learning rate, ½ lr (1 + cos(π t / cosine_steps)), which is periodic, or the recipe's."""
        recipe, steps = ctx.recipes.finetune, self.config.cosine_steps
        if steps is not None:
            return lambda step: recipe.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        factor = schedule_factor(recipe, recipe.epochs, _steps_per_epoch(ctx))
        return lambda step: recipe.lr * factor(step)

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return quantizer_networks()


def _steps_per_epoch(ctx: Context) -> int:
    """Of generator and student alike."""
    recipe: Recipe = ctx.recipes.finetune
    return ctx.steps(recipe) // recipe.epochs


def _half_batch(ctx: Context) -> int:
    size = ctx.recipes.finetune.batch_size
    if size < 2:
        raise UserError(f"recipes.finetune.batch_size is {size}: half of it is real and half generated; use 2 or more.")
    return size // 2


def _calibration(ctx: Context, index: Tensor) -> SyntheticImages:
    """The real images of the list, as the network sees them in evaluation."""
    train = ctx.data.train
    return SyntheticImages(train.images_at(index).to(ctx.device), train.labels[index].to(ctx.device))
