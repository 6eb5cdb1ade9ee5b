"""Vanilla knowledge distillation: its loss, and a teacher that does not move."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from compressbench.training.checkpoint import same_bits
from methods.baselines.knowledge_distillation.method import KnowledgeDistillation
from tests.contexts import full_size_context, make_context

STUDENT, TEACHER = torch.tensor([[2.0, 0, -1]]).double(), torch.tensor([[3.0, 1, -2]]).double()


def method(**config: object) -> KnowledgeDistillation:
    return KnowledgeDistillation(KnowledgeDistillation.Config(**config))  # type: ignore[arg-type]


def test_labels_and_teacher_share_the_loss() -> None:
    label = torch.tensor([1])
    entropy = F.cross_entropy(STUDENT, label).item()
    assert method(teacher_share=1).loss(STUDENT, TEACHER, label).item() == pytest.approx(0.2877215, abs=5e-7)
    assert method(teacher_share=1, temperature=1).loss(STUDENT, TEACHER, label).item() == pytest.approx(
        0.0252013, abs=5e-8
    )
    assert method().loss(STUDENT, TEACHER, label).item() == pytest.approx(0.1 * entropy + 0.9 * 0.2877215, abs=5e-7)
    assert method(teacher_share=0).loss(STUDENT, TEACHER, label).item() == pytest.approx(entropy)


def test_a_constant_beside_the_teachers_logits_teaches_nothing() -> None:
    student = STUDENT.clone().requires_grad_()
    method(teacher_share=1).loss(student, STUDENT + 5, torch.tensor([1])).backward()
    assert student.grad.abs().max() < 1e-14  # type: ignore[union-attr]


def test_the_teacher_does_not_move(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, steps_per_epoch=3)
    ctx.teacher_folder = ctx.dense_folder
    teacher = ctx.teacher()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    ctx.teacher = lambda: teacher  # type: ignore[method-assign]
    student = method().compress(ctx)
    assert same_bits(before, teacher.state_dict()) and not same_bits(before, student.state_dict())
    assert all(p.grad is None for p in teacher.parameters())
    assert ctx.records["teacher_params"] == sum(p.numel() for p in teacher.parameters())


def test_one_iteration_at_full_size(tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, "cifar100/resnet20_conv", "knowledge_distillation", "unchanged")
    ctx.teacher = lambda: ctx.build(member=1).eval()  # type: ignore[method-assign]
    student = method().compress(ctx)
    assert not same_bits(ctx.build().state_dict(), student.state_dict())
