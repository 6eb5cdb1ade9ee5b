"""FFSD (arXiv 2103.14473): a leader is distilled online from students that imitate each other; only the leader is kept."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from compressbench.config import MethodConfig
from compressbench.method import FLOAT, Context, Deployment, Method, PublishedCount
from compressbench.method.untrained import Unchanged
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.training import Hook, State
from compressbench.training.distillation import attention_loss, normalised_mse, peer_accuracies, softened_divergence
from methods.ffsd import counts
from methods.ffsd.attention_shift import diversity_loss, shift
from methods.ffsd.networks import Cohort, Decoder, Seen, check_taps


def ramp(epoch: int, length: int) -> float:
    """Share of the weights λ in `epoch`, counted from 1: exp(-5 (1 - e/length)²), then 1."""
    return math.exp(-5 * (1 - min(epoch / length, 1)) ** 2)


class Ramp(Hook):
    """Sets the cohort's ramp at the start of every epoch."""

    def __init__(self, length: int):
        self.length = length

    def on_epoch_start(self, state: State) -> None:
        assert isinstance(state.model, Cohort)
        state.model.ramp = ramp(state.epoch + 1, self.length)


class Losses(NamedTuple):
    """The losses of one iteration, each with gradients in the modules that it is named after and in no others.

    leader includes its branch; decoders is the sum over all of them.
    """

    students: list[Tensor]
    fusion: Tensor
    leader: Tensor
    decoders: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum: as every cross term is detached, its gradient is that of each loss in its own modules."""
        return sum(self.students, self.fusion + self.leader + self.decoders)


class FFSD(Method):
    """Feature fusion and self-distillation."""

    class Config(MethodConfig):
        """Defaults: the paper's, for CIFAR-100 and ImageNet alike."""

        students: int = Field(2, ge=2, description="n, networks beside the leader")
        temperature: float = Field(2.0, gt=0, description="T of all distillation between logits")
        diversity_weight: float = Field(
            1e-5, ge=0, description="λ_div: of the shifted attention, and of the students' decoded attention"
        )
        fusion_weight: float = Field(10.0, ge=0, description="λ_fus: of what the leader learns from feature maps")
        decoder_weight: float = Field(1000.0, ge=0, description="λ_sd: of the training of the decoders")
        ramp_epochs: int = Field(5, ge=1, description="epochs in which the three weights grow to their full value")
        fusion_weight_decay: float = Field(1e-5, ge=0)
        decoder_lr: float = Field(1e-3, gt=0, description="of Adam; follows the recipe's schedule")
        decoder_weight_decay: float = Field(1e-4, ge=0, description="L2 penalty")

    config: Config

    def check(self, network: Network) -> None:
        check_taps(network)

    def compress(self, ctx: Context) -> Network:
        recipe, cohort = ctx.recipes.scratch, Cohort.build(ctx, self.config.students)
        ctx.record("trained_params", sum(p.numel() for p in cohort.parameters()))
        ctx.fit(
            cohort,
            recipe,
            loss=lambda cohort, batch: self.losses(cohort, *batch).total,
            optimizers=self.optimizers(ctx, cohort),
            hooks=[Ramp(self.config.ramp_epochs)],
            validate=lambda cohort: _validation(peer_accuracies(cohort, ctx.held_out)),
        )
        for name, value in peer_accuracies(cohort, ctx.data.test).items():
            ctx.record(f"{name}_top1", value)
        return cohort.leader

    def optimizers(self, ctx: Context, cohort: Cohort) -> list[torch.optim.Optimizer]:
        """The recipe's for the networks and, with a weight decay of its own, the fusion; Adam for the decoders."""
        config, networks = self.config, [p for module in cohort.networks() for p in module.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": networks},
            {"params": list(cohort.fusion.parameters()), "weight_decay": config.fusion_weight_decay},
        ]
        adam = torch.optim.Adam(
            cohort.decoders.parameters(), lr=config.decoder_lr, weight_decay=config.decoder_weight_decay
        )
        return [ctx.optimizer(ctx.recipes.scratch, groups), adam]

    def losses(self, cohort: Cohort, images: Tensor, labels: Tensor) -> Losses:
        """Of one batch: images [B, C, H, W] and labels [B]."""
        leader, students = cohort.see(images)
        together = torch.cat([student.deepest.detach() for student in students], 1)
        logits, fused = cohort.fusion(together)
        ensemble = torch.stack([student.logits for student in students]).mean(0)
        return Losses(
            students=[self._student_loss(cohort, i, students, labels) for i in range(len(students))],
            fusion=F.cross_entropy(logits, labels) + self._imitation(logits, ensemble),
            leader=self._leader_loss(cohort, leader, logits, fused, together, labels),
            decoders=self._decoder_loss(cohort, [*students[1:], leader]),
        )

    def _imitation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL_T(student <- teacher) = T² KL(softmax(teacher/T) ‖ softmax(student/T)), the teacher detached."""
        return self.config.temperature**2 * softened_divergence(student, teacher.detach(), self.config.temperature)

    def _student_loss(self, cohort: Cohort, i: int, students: list[Seen], labels: Tensor) -> Tensor:
        """Labels, the other students' logits and, from student 1 on, the shifted attention of the one before."""
        own = students[i]
        peers = [self._imitation(own.logits, other.logits) for j, other in enumerate(students) if j != i]
        loss = F.cross_entropy(own.logits, labels) + sum(peers) / len(peers)
        if i == 0:
            return loss
        previous = students[i - 1].deepest.detach()
        decoded = self._decoded_attention(cohort.decoder(i - 1), own, shift(previous))
        weight = cohort.ramp * self.config.diversity_weight
        return loss + weight * (diversity_loss(own.deepest, previous) + decoded)

    def _leader_loss(
        self, cohort: Cohort, leader: Seen, logits: Tensor, fused: Tensor, together: Tensor, labels: Tensor
    ) -> Tensor:
        """Labels, the fused logits, and the attention of the fused, the concatenated and the decoded maps."""
        fused = fused.detach()
        attentions = (
            attention_loss(leader.deepest, fused)
            + attention_loss(cohort.branch(leader.deepest), together)
            + self._decoded_attention(cohort.decoder(-1), leader, fused)
        )
        weight = cohort.ramp * self.config.fusion_weight
        return F.cross_entropy(leader.logits, labels) + self._imitation(leader.logits, logits) + weight * attentions

    def _decoded_attention(self, decoder: Decoder, own: Seen, deepest: Tensor) -> Tensor:
        """Σ_k<K N(A(f^k), A(g^k)): shallow maps imitate what the decoder, in eval mode, makes of a deepest map."""
        first, *others = map(attention_loss, own.maps, decoder.targets(deepest))
        return sum(others, first)

    def _decoder_loss(self, cohort: Cohort, networks: list[Seen]) -> Tensor:
        """Every decoder, in train mode, restores the shallow maps of its network from the deepest one."""
        terms = [
            normalised_mse(made, real.detach()) + attention_loss(made, real.detach())
            for decoder, own in zip(cohort.decoders, networks, strict=True)
            for made, real in zip(decoder(own.deepest.detach()), own.maps, strict=False)
        ]
        return cohort.ramp * self.config.decoder_weight * torch.stack(terms).sum()

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        note = "the student that is deployed is the dense network"
        return [
            Deployment(
                NETWORKS[network], "student", Unchanged(), FLOAT, representative=network == "ResNet-18", note=note
            )
            for network in ("ResNet-18", "ResNet-34", "ResNet-56 (CIFAR)")
        ]


def _validation(accuracies: dict[str, float]) -> dict[str, float]:
    """The validation accuracy is that of the leader; the others are additional metrics."""
    leader = accuracies.pop("leader")
    return {"validation_top1": leader} | {f"validation_top1_{name}": value for name, value in accuracies.items()}
