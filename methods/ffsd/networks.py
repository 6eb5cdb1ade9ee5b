"""The jointly trained networks, and the modules that connect them only while they train."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.method import Context
from compressbench.models import Network
from compressbench.models.structure import conv_unit, submodule
from compressbench.training.distillation import PeerNetworks, forward_with_taps, peer_logits
from methods.ffsd.attention_shift import LEAST_POSITIONS

Sides = tuple[int, int]
"""Height and width of a feature map."""


def mixer(inputs: int, outputs: int) -> nn.Sequential:
    """Depthwise 3x3 and 1x1 convolution, each with batch normalisation and ReLU: [B, inputs, H, W] -> [B, outputs, H, W]."""
    return nn.Sequential(conv_unit(inputs, inputs, groups=inputs), conv_unit(inputs, outputs, kernel=1))


class Fusion(nn.Module):
    """M: the students' last maps become one map, and logits of it."""

    def __init__(self, students: int, channels: int, classes: int):
        super().__init__()
        self.mixer = mixer(students * channels, channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Concatenated maps [B, n c, H, W] -> logits [B, classes] and the fused map [B, c, H, W]."""
        fused = self.mixer(maps)
        return self.classifier(self.pool(fused).flatten(1)), fused


def _enlarge(inputs: int, outputs: int, extra: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """Sides s -> 2 s - 1 + extra."""
    conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=extra, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _deep_to_shallow(sides: Sequence[Sides]) -> tuple[list[Sides], list[Sides]]:
    """What the stages of a decoder read, and what they make of it."""
    return list(sides[:0:-1]), list(sides[-2::-1])


def _extra(small: Sides, large: Sides) -> Sides:
    """Rows and columns that a stage adds to twice the smaller map, less one."""
    return large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1


class Decoder(nn.Module):
    """Q, the self-distillation module: from the deepest map back to the shapes of the shallower ones."""

    def __init__(self, channels: Sequence[int], sides: Sequence[Sides] | None = None):
        """`channels` and `sides` of the feature maps, shallow to deep; by default each map is twice as large as the next."""
        super().__init__()
        steps = [(1, 1)] * (len(channels) - 1) if sides is None else list(map(_extra, *_deep_to_shallow(sides)))
        self.stages = nn.ModuleList(
            _enlarge(a, b, extra) for (a, b), extra in zip(pairwise(reversed(channels)), steps, strict=True)
        )

    def forward(self, deepest: Tensor) -> list[Tensor]:
        """[B, c, H, W] -> maps in the shapes of all but the deepest, shallow to deep."""
        maps = []
        for stage in self.stages:
            deepest = stage(deepest)
            maps.append(deepest)
        return maps[::-1]

    @torch.no_grad()
    def targets(self, deepest: Tensor) -> list[Tensor]:
        """The same in eval mode and without gradient: the running statistics stay as they are."""
        was_training = self.training
        maps = self.eval()(deepest)
        self.train(was_training)
        return maps


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Convolutions from N(0, 2 / (k² c_out)); batch norms and linear layers as torch makes them."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.normal_(0, math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))


class Seen(NamedTuple):
    """What a network makes of a batch.

    logits: z [B, classes]. maps: f¹..f^K [B, c, H, W], shallow to deep.
    """

    logits: Tensor
    maps: list[Tensor]

    @property
    def deepest(self) -> Tensor:
        """f^K, not detached."""
        return self.maps[-1]


class Cohort(PeerNetworks):
    """Leader L with its branch R, students S, fusion M and decoders Q: those of students 1.. and, last, the leader's.

    Attributes:
        ramp: the share of the weights λ that holds in this epoch.
    """

    def __init__(
        self,
        leader: Network,
        students: Sequence[Network],
        channels: Sequence[int],
        classes: int,
        sides: Sequence[Sides] | None = None,
    ):
        """`channels` and `sides` of the feature maps of one network, shallow to deep: see `Decoder`."""
        super().__init__()
        deepest = channels[-1]
        self.leader, self.students = leader, nn.ModuleList(students)
        self.branch = mixer(deepest, len(students) * deepest)
        self.fusion = Fusion(len(students), deepest, classes)
        self.decoders = nn.ModuleList(Decoder(channels, sides) for _ in students)
        self.ramp = 1.0
        for module in (self.branch, self.fusion, self.decoders):
            initialise(module)

    @classmethod
    def build(cls, ctx: Context, students: int) -> Self:
        """The leader starts from the weights that every method starts from, each student from its own."""
        leader, *others = (ctx.build(member=member) for member in range(students + 1))
        channels, sides = tap_shapes(leader, ctx.info.image_shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.generator("modules").initial_seed())
            return cls(leader, others, channels, ctx.info.classes, sides).to(ctx.device)

    def decoder(self, i: int) -> Decoder:
        """Q of student i + 1, or of the leader: -1."""
        return submodule(self.decoders, str(i % len(self.decoders)), Decoder)

    def networks(self) -> list[nn.Module]:
        """What has the learning rate and weight decay of the recipe: students, leader and branch."""
        return [*self.students, self.leader, self.branch]

    def see(self, images: Tensor) -> tuple[Seen, list[Seen]]:
        """Leader, and students."""
        students = [submodule(self.students, name, Network) for name, _ in self.students.named_children()]
        leader, *others = (Seen(*forward_with_taps(network, images)) for network in (self.leader, *students))
        return leader, others

    def predictions(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [B, classes] of everything that can classify."""
        leader, students = self.see(images)
        fused, _ = self.fusion(torch.cat([student.deepest for student in students], 1))
        return {"leader": leader.logits, "fusion": fused} | peer_logits([student.logits for student in students])


def check_taps(network: Network) -> None:
    """UserError where there are no feature maps to compare."""
    if len(network.taps()) < 2:
        raise UserError(
            f"architecture {network.spec.architecture} does not say where its feature maps are; give it a method `taps`, which "
            "returns the names of at least two modules, shallow to deep."
        )


def tap_channels(network: Network, image_shape: Sequence[int]) -> list[int]:
    """The channels of `tap_shapes`."""
    return tap_shapes(network, image_shape)[0]


@torch.no_grad()
def tap_shapes(network: Network, image_shape: Sequence[int]) -> tuple[list[int], list[Sides]]:
    """Channels, and heights and widths, of the feature maps, shallow to deep.

    UserError unless each is half as high and wide as the one before, rounded up as a convolution with stride 2 does.
    """
    architecture = network.spec.architecture
    device = next(network.parameters()).device
    was_training = network.training
    _, maps = forward_with_taps(network.eval(), torch.zeros(1, *image_shape, device=device))
    network.train(was_training)
    check_taps(network)
    sizes = [(f.shape[2], f.shape[3]) for f in maps]
    if any((side + 1) // 2 != half for pair in pairwise(sizes) for side, half in zip(*pair, strict=True)):
        shown = ", ".join("x".join(map(str, size)) for size in sizes)
        raise UserError(
            f"the feature maps of {architecture} are {shown}: each must be half of the one before; change the strides."
        )
    if math.prod(sizes[-1]) < LEAST_POSITIONS:
        raise UserError(
            f"the deepest feature map of {architecture} has fewer than {LEAST_POSITIONS} positions; use larger images."
        )
    return [f.shape[1] for f in maps], sizes
