"""Deep mutual learning: its loss, turns, and what is kept."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.training import State
from compressbench.training.checkpoint import same_bits
from compressbench.training.distillation import softened_divergence
from methods.baselines.mutual_learning.method import MutualLearning, Peers, Turns, simultaneous_loss, student_loss
from tests.contexts import make_context

LABELS = torch.tensor([0, 2, 1, 1])


def peers(count: int) -> Peers:
    torch.manual_seed(0)
    return Peers([nn.Linear(5, 3) for _ in range(count)]).double()


IMAGES = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def grad(loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True))


def test_identical_students_learn_from_labels_only() -> None:
    logits = [torch.randn(4, 3).double()] * 2
    torch.testing.assert_close(student_loss(logits, 0, LABELS), F.cross_entropy(logits[0], LABELS))


def test_divergence_is_averaged_over_the_others_from_them_to_the_student() -> None:
    logits = [torch.randn(4, 3).double() for _ in range(3)]
    others = (softened_divergence(logits[1], logits[0]) + softened_divergence(logits[1], logits[2])) / 2
    torch.testing.assert_close(student_loss(logits, 1, LABELS), F.cross_entropy(logits[1], LABELS) + others)


def test_a_loss_has_no_gradient_in_another_student() -> None:
    together = peers(2)
    logits = together.logits(IMAGES)
    assert grad(student_loss(logits, 0, LABELS), together.students[1]) == [None, None]
    total = grad(simultaneous_loss(together, (IMAGES, LABELS)), together.students[1])
    for a, b in zip(total, grad(student_loss(logits, 1, LABELS), together.students[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [2, 3])
def test_in_turns_everybody_sees_those_already_updated(count: int) -> None:
    mine, expected = peers(count), peers(count)
    optimizers = [torch.optim.SGD(s.parameters(), 0.5, momentum=0.9) for s in mine.students]
    turns = Turns()
    for _ in range(2):
        state = State(mine, optimizers, 1, 1, batch=(IMAGES, LABELS))
        loss = turns.loss(mine, state.batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        turns.on_step_end(state)
    theirs = [torch.optim.SGD(s.parameters(), 0.5, momentum=0.9) for s in expected.students]
    for _ in range(2):
        for k, optimizer in enumerate(theirs):
            optimizer.zero_grad()
            student_loss(expected.logits(IMAGES), k, LABELS).backward()
            optimizer.step()
    for a, b in zip(mine.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("updates", ["in_turn", "simultaneous"])
def test_student_zero_is_kept(updates: str, data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, steps_per_epoch=3)
    kept = MutualLearning(MutualLearning.Config(updates=updates)).compress(ctx)
    alone = ctx.build()
    assert kept.state_dict().keys() == alone.state_dict().keys() and not same_bits(
        kept.state_dict(), alone.state_dict()
    )
    assert ctx.records["trained_params"] == 2 * sum(p.numel() for p in alone.parameters())
    assert {"student0_top1", "student1_top1", "students_top1", "ensemble_top1"} <= ctx.records.keys()
