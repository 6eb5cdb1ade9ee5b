"""Deep mutual learning: students are trained on labels and on each other's logits; one of them is kept."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compressbench.config import MethodConfig
from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.models.structure import submodule
from compressbench.training import Hook, State
from compressbench.training.distillation import PeerNetworks, peer_accuracies, peer_logits, softened_divergence

Batch = tuple[Tensor, Tensor]


class Peers(PeerNetworks):
    """Students of the same architecture with weights of their own."""

    def __init__(self, students: Sequence[nn.Module]):
        super().__init__()
        self.students = nn.ModuleList(students)

    def logits(self, images: Tensor) -> list[Tensor]:
        """Of every student, [B, classes] each."""
        return [student(images) for student in self.students]

    def predictions(self, images: Tensor) -> dict[str, Tensor]:
        """Every student and their mean."""
        return peer_logits(self.logits(images))


def student_loss(logits: list[Tensor], k: int, labels: Tensor) -> Tensor:
    """L_k = CE(y, p_k) + 1/(K-1) Σ_{j≠k} KL(p_j ‖ p_k), p_j constant. Logits [B, classes] of every student."""
    others = [softened_divergence(logits[k], z.detach()) for j, z in enumerate(logits) if j != k]
    return F.cross_entropy(logits[k], labels) + sum(others) / len(others)


def simultaneous_loss(peers: Peers, batch: Batch) -> Tensor:
    """The sum of all students' losses: each has its gradient in its own student only."""
    images, labels = batch
    logits = peers.logits(images)
    first, *others = (student_loss(logits, k, labels) for k in range(len(logits)))
    return sum(others, first)


class Turns(Hook):
    """A step is the update of student 0; then come the others', each after a new look at those already updated.

    The logits are kept within a step only.
    """

    def loss(self, peers: Peers, batch: Batch) -> Tensor:
        """That of student 0."""
        self.logits = peers.logits(batch[0])
        return student_loss(self.logits, 0, batch[1])

    def on_step_end(self, state: State) -> None:
        assert isinstance(state.model, Peers)
        (images, labels), students = state.batch, state.model.students
        for k in range(1, len(students)):
            with torch.no_grad():
                self.logits[k - 1] = students[k - 1](images)
            state.optimizers[k].zero_grad(set_to_none=True)
            student_loss(self.logits, k, labels).backward()
            state.optimizers[k].step()


class MutualLearning(Method):
    """Student 0, which starts from the weights of the student alone, is kept."""

    class Config(MethodConfig):
        """Cohort and order of updates."""

        students: int = Field(2, ge=2, description="K")
        updates: Literal["in_turn", "simultaneous"] = "in_turn"

    config: Config

    def undivided(self) -> str:
        return "its students are updated one after the other" if self.config.updates == "in_turn" else ""

    def uncompiled(self) -> str:
        return "its students are updated one after the other" if self.config.updates == "in_turn" else ""

    def compress(self, ctx: Context) -> Network:
        recipe, turns = ctx.recipes.scratch, Turns()
        in_turn = self.config.updates == "in_turn"
        peers = Peers([ctx.build(member=member) for member in range(self.config.students)]).to(ctx.device)
        ctx.record("trained_params", sum(p.numel() for p in peers.parameters()))
        ctx.fit(
            peers,
            recipe,
            loss=turns.loss if in_turn else simultaneous_loss,
            optimizers=[ctx.optimizer(recipe, student.parameters()) for student in peers.students],
            hooks=[turns] if in_turn else [],
            validate=lambda peers: _validation(peer_accuracies(peers, ctx.held_out)),
        )
        for name, value in peer_accuracies(peers, ctx.data.test).items():
            ctx.record(f"{name}_top1", value)
        return submodule(peers, "students.0", Network)


def _validation(accuracies: dict[str, float]) -> dict[str, float]:
    """The validation accuracy is that of the kept student; all students are additional metrics."""
    named = {f"validation_top1_{name}": value for name, value in accuracies.items()}
    return {"validation_top1": accuracies["student0"]} | named
