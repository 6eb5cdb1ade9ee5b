"""The three terms of the loss of a session (section 3 of the paper), and the sharpness of the gates."""

import torch
from torch import Tensor
from torch.nn import functional as F


def sharpness(epoch: int, warmup: int = 20) -> float:
    """β(e) = 1 + max(e − 20, 0), with e the epoch of this session, from 0: gates become nearly 0 or 1."""
    return 1.0 + max(epoch - warmup, 0)


def distillation(logits: Tensor, old: Tensor, temperature: float) -> Tensor:
    """KD(p, q) = −mean_batch Σ_c softmax(q/T)_c log_softmax(p/T)_c over the old classes: scalar.

    Args:
        logits: [B, C], the first C_old of the classes that `old` has.
        old: [B, C_old], of the network before the session; no gradient.
        temperature: T. There is no factor T², and the entropy of q stays in: KD(q, q) is not 0.
    """
    target = F.softmax(old.detach() / temperature, dim=1)
    return -(target * F.log_softmax(logits[:, : old.shape[1]] / temperature, dim=1)).sum(1).mean()


def gate_penalty(gate: Tensor, allowed: Tensor | float, weight: float) -> Tensor:
    """weight · max(0, mean(a) − r): the L1 norm of the gates [N] over N, above what is allowed."""
    return weight * torch.clamp(gate.mean() - allowed, min=0)
