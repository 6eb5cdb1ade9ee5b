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


def _enlarge(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Decoder(nn.Module):
    """Q, the self-distillation module: from the deepest map back to the shapes of the shallower ones."""

    def __init__(self, channels: Sequence[int]):
        """`channels` of the feature maps, shallow to deep."""
        super().__init__()
        self.stages = nn.ModuleList(_enlarge(a, b) for a, b in pairwise(reversed(channels)))

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

    def __init__(self, leader: Network, students: Sequence[Network], channels: Sequence[int], classes: int):
        """`channels` of the feature maps of one network, shallow to deep."""
        super().__init__()
        deepest = channels[-1]
        self.leader, self.students = leader, nn.ModuleList(students)
        self.branch = mixer(deepest, len(students) * deepest)
        self.fusion = Fusion(len(students), deepest, classes)
        self.decoders = nn.ModuleList(Decoder(channels) for _ in students)
        self.ramp = 1.0
        for module in (self.branch, self.fusion, self.decoders):
            initialise(module)

    @classmethod
    def build(cls, ctx: Context, students: int) -> Self:
        """The leader starts from the weights that every method starts from, each student from its own."""
        leader, *others = (ctx.build(member=member) for member in range(students + 1))
        channels = tap_channels(leader, ctx.info.image_shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.generator("modules").initial_seed())
            return cls(leader, others, channels, ctx.info.classes).to(ctx.device)

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


@torch.no_grad()
def tap_channels(network: Network, image_shape: Sequence[int]) -> list[int]:
    """Channels of the feature maps, shallow to deep; UserError unless each is half as high and wide as the last."""
    architecture = network.spec.architecture
    device = next(network.parameters()).device
    was_training = network.training
    _, maps = forward_with_taps(network.eval(), torch.zeros(1, *image_shape, device=device))
    network.train(was_training)
    check_taps(network)
    sizes = [tuple(f.shape[2:]) for f in maps]
    if any(a != tuple(2 * side for side in b) for a, b in pairwise(sizes)):
        shown = ", ".join("x".join(map(str, size)) for size in sizes)
        raise UserError(
            f"the feature maps of {architecture} are {shown}: each must be half of the one before; change the strides."
        )
    if math.prod(sizes[-1]) < LEAST_POSITIONS:
        raise UserError(
            f"the deepest feature map of {architecture} has fewer than {LEAST_POSITIONS} positions; use larger images."
        )
    return [f.shape[1] for f in maps]
