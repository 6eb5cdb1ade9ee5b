"""Knowledge distillation: labels, and the softened logits of a larger, pretrained network."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compressbench import quality
from compressbench.config import MethodConfig
from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.training.distillation import softened_divergence


class KnowledgeDistillation(Method):
    """The teacher is frozen, in eval mode; the student starts from the weights of the student alone."""

    class Config(MethodConfig):
        """How much of the teacher, and how soft."""

        teacher_share: float = Field(0.9, ge=0, le=1, description="λ, the teacher's share of the loss")
        temperature: float = Field(4.0, gt=0, description="τ")

    config: Config

    def compress(self, ctx: Context) -> Network:
        teacher = ctx.teacher()
        ctx.record("teacher_top1", quality.top1(teacher, ctx.data.test))
        ctx.record("teacher_params", sum(p.numel() for p in teacher.parameters()))

        def loss(student: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            with torch.no_grad():
                target = teacher(images)
            return self.loss(student(images), target, labels)

        return ctx.fit(ctx.build(), ctx.recipes.scratch, loss=loss)

    def loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """L = (1 - λ) CE + λ τ² KL(softmax(T/τ) ‖ softmax(S/τ)). Logits [B, classes], labels [B]."""
        share, temperature = self.config.teacher_share, self.config.temperature
        imitation = temperature**2 * softened_divergence(student, teacher, temperature)
        return (1 - share) * F.cross_entropy(student, labels) + share * imitation
