"""The generator's training: what a step draws, its loss, its learning rate, and how it passes from stage to stage."""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.data import SyntheticImages
from compressbench.data_free.boxes import Boxes, resize_boxes
from compressbench.data_free.generator import NOISE, Generator
from compressbench.data_free.norm_statistics import NormInputs
from compressbench.finite import best_class
from compressbench.method import Context
from compressbench.models import Network
from compressbench.seeding import derive_seed, generator
from compressbench.training import Hook, State
from methods.fdda.centres import ClassCentres, Statistics, distance, distorted, first_aligned_layer, layer_weights
from methods.fdda.config import FDDAConfig

EARLY_EPOCHS = 5  # with all classes, and noise as the target where the teacher errs on the centre (code only)
EARLY_FACTOR = 2.0
REFERENCE = 16  # real images per class that only describe the centres


class Draw(NamedTuple):
    """The random part of one step: a batch of mixed classes, a batch of one class, and the distortion of its centre.

    noise, class_noise: [B, 100]. labels: int64 [B]. label: int64 scalar. distortion: [2, channels of all layers].
    """

    noise: Tensor
    labels: Tensor
    class_noise: Tensor
    label: Tensor
    distortion: Tensor


class Draws:
    """step -> Draw, a pure function of (seed, step): the same in every stage, so that compress can repeat synthesize."""

    def __init__(self, seed: int, batch: int, steps_per_epoch: int, centres: ClassCentres):
        self.seed, self.batch, self.steps_per_epoch = seed, batch, steps_per_epoch
        self.classes, self.channels = len(centres.recognised), sum(centres.channels)
        self.recognised = centres.recognised.cpu().nonzero()[:, 0]

    def __call__(self, step: int) -> Draw:
        """The one class is any in the first five epochs, then one that is recognised."""
        random = generator(self.seed, "fdda", "draw", step)
        noise, class_noise = torch.randn(2, self.batch, NOISE, generator=random)
        labels = torch.randint(self.classes, (self.batch,), generator=random)
        early = step // self.steps_per_epoch < EARLY_EPOCHS
        candidates = torch.arange(self.classes) if early else self.recognised
        label = candidates[torch.randint(len(candidates), (), generator=random)]
        return Draw(noise, labels, class_noise, label, torch.randn(2, self.channels, generator=random))


class Generated(NamedTuple):
    """What a generator step leaves for the student.

    loss: scalar. images: the batch of mixed classes [B, C, H, W]. logits: the teacher's of it [B, classes].
    """

    loss: Tensor
    images: Tensor
    logits: Tensor


class GeneratorLoss:
    """loss_G = ½ L_ce + 0.2 L_bns + ½ L_ce' + 0.9 L_D + 0.01 L_C; with L_D and L_C switched off L_ce + 0.2 L_bns."""

    def __init__(self, teacher: nn.Module, centres: ClassCentres, config: FDDAConfig):
        self.teacher, self.centres, self.config = teacher, centres, config
        channels, device = centres.channels, centres.means.device
        self.aligned = layer_weights(channels, first_aligned_layer(len(channels))).to(device)
        self.all_layers = layer_weights(channels).to(device)

    def __call__(self, generator: Generator, draw: Draw) -> Generated:
        """Gradients reach the generator through the frozen teacher."""
        config = self.config
        with NormInputs(self.teacher) as statistics:
            images = generator(draw.noise, draw.labels)
            logits = self.teacher(images)
            loss, bns = F.cross_entropy(logits, draw.labels), config.bns_weight * statistics.loss()
            if not (config.distorted_weight or config.centralised_weight):
                return Generated(loss + bns, images, logits)
            labels = draw.label.expand(len(draw.class_noise))
            one_class = F.cross_entropy(self.teacher(generator(draw.class_noise, labels)), labels)
            aligned = self.alignment(Statistics.of(statistics.take()), draw)
        return Generated(0.5 * loss + bns + 0.5 * one_class + aligned, images, logits)

    def alignment(self, statistics: Statistics, draw: Draw) -> Tensor:
        """0.9 L_D + 0.01 L_C of a batch of one class; where the teacher errs on its centre L_C = 0, and L_D aims at noise."""
        config = self.config
        if not self.centres.recognised[draw.label]:
            noise = distance(statistics, Statistics(*draw.distortion), self.all_layers)
            return config.distorted_weight * EARLY_FACTOR * noise
        centre = self.centres.centre(draw.label)
        target = distorted(centre, draw.distortion, config.mean_noise, config.variance_noise)
        return config.distorted_weight * distance(statistics, target, self.aligned) + (
            config.centralised_weight * distance(statistics, centre, self.aligned)
        )


@torch.no_grad()
def student_batch(
    teacher: nn.Module, real: Tensor, generated: Generated, box: Boxes | None = None
) -> tuple[Tensor, Tensor]:
    """(images [R + B, C, H, W], the teacher's logits of them): real ones [R, ...] first, then the generated ones, cut from the
    generator. With a box (of one image), the same cut is made in all generated images, and the teacher looks again."""
    images, logits = generated.images, generated.logits
    if box is not None:
        images = resize_boxes(images, Boxes(*(part.expand(len(images)) for part in box)))
        logits = teacher(images)
    return torch.cat([real, images]), torch.cat([teacher(real), logits])


class Trainee(NamedTuple):
    """A generator and its optimiser, which train in two stages."""

    generator: Generator
    optimizer: torch.optim.Optimizer

    @classmethod
    def fresh(cls, ctx: Context, config: FDDAConfig) -> Self:
        """Untrained. The weights depend on the run's seed, not on the stage."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(ctx.seed, "fdda", "generator"))
            made = Generator(ctx.info.classes, ctx.info.channels, ctx.info.size, True, config.generator_width)
        made = made.to(ctx.device).train()
        return cls(made, torch.optim.Adam(made.parameters(), lr=config.generator_lr, betas=(0.5, 0.999)))

    def keep(self, ctx: Context) -> None:
        """Weights and Adam's moments, for the later stages."""
        moments = self.optimizer.state_dict()["state"]
        ctx.keep("generator", self.generator.state_dict())
        ctx.keep("adam", {f"{i}.{name}": t for i, state in moments.items() for name, t in state.items()})

    @classmethod
    def kept(cls, ctx: Context, config: FDDAConfig) -> Self:
        """As the synthesize stage left it."""
        trainee = cls.fresh(ctx, config)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in ctx.kept("adam").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = tensor
        trainee.generator.load_state_dict(ctx.kept("generator"))
        groups = trainee.optimizer.state_dict()["param_groups"]
        trainee.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return trainee


class Joint(nn.Module):
    """Student and generator side by side, no parameter in common; the student in eval mode, the generator in train mode."""

    def __init__(self, student: Network, generator: Generator):
        super().__init__()
        self.student, self.generator = student, generator

    def train(self, mode: bool = True) -> Self:
        """Whatever `mode` says."""
        self.student.eval()
        self.generator.train()
        return self


class Rate(Hook):
    """The learning rate of one optimiser, before every step: a function of the step."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Callable[[int], float]):
        self.optimizer, self.rate = optimizer, rate

    def on_step_start(self, state: State) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(state.step)


@torch.no_grad()
def sample(generator: Generator, count: int, batch: int, classes: int, random: torch.Generator) -> SyntheticImages:
    """`count` images of all classes in turn, in shuffled batches: the generator normalises by the batch."""
    device = next(generator.parameters()).device
    labels = (torch.arange(count) % classes)[torch.randperm(count, generator=random)].to(device)
    noise = torch.randn(count, NOISE, generator=random).to(device)
    parts = zip(noise.split(batch), labels.split(batch), strict=True)
    return SyntheticImages(torch.cat([generator(z, y) for z, y in parts]), labels)


@torch.no_grad()
def describe(ctx: Context, loss: GeneratorLoss, generator: Generator, batch: int) -> None:
    """Records, means over classes: L_C of real images to their own and to another centre, and of generated ones.

    Real images outside the calibration set only serve as the reference here.
    """
    train, random, teacher, centres = ctx.data.train, ctx.generator("description"), loss.teacher, loss.centres
    classes = ctx.info.classes
    found: dict[str, list[Tensor]] = {"own": [], "other": [], "generated": []}
    hits = []
    with NormInputs(teacher) as statistics:
        for label in range(classes):
            own, other = centres.centre(label), centres.centre((label + 1) % classes)
            chosen = (train.labels == label).nonzero()[:REFERENCE, 0]
            teacher(train.images_at(chosen).to(ctx.device))
            real = Statistics.of(statistics.take())
            noise = torch.randn(batch, NOISE, generator=random).to(ctx.device)
            made_images = generator(noise, torch.full((batch,), label, device=ctx.device))
            hits.append(best_class(teacher(made_images), "the teacher") == label)
            made = Statistics.of(statistics.take())
            found["own"].append(distance(real, own, loss.aligned))
            found["other"].append(distance(real, other, loss.aligned))
            found["generated"].append(distance(made, own, loss.aligned))
    ctx.record("recognised_classes", int(centres.recognised.sum()))
    ctx.record("one_class_accuracy", 100 * torch.cat(hits).float().mean().item())
    for name, values in found.items():
        ctx.record(f"centre_distance_{name}", torch.stack(values).mean().item())
