"""Distillation: a student learns the teacher's logits beside the labels."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """L_S = CE + α·τ²·KL(softmax(T/τ) ‖ softmax(S/τ)), KL summed over classes, averaged over the batch. Logits [B, classes]."""
    log_s, log_t = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    divergence = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    return F.cross_entropy(student, labels) + alpha * temperature**2 * divergence
