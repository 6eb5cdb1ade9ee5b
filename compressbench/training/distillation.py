"""Distillation: what a student learns from other networks beside the labels: logits, attention maps, feature maps."""

from collections.abc import Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.data.classification import AnySplit
from compressbench.models import Network
from compressbench.quality import top1_of_each


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(T/τ) ‖ softmax(S/τ)), summed over classes, averaged over the batch. Logits [B, classes].

    Its gradient falls like 1/τ²: losses multiply by τ².
    """
    log_s, log_t = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """L_S = CE + α·τ²·KL(softmax(T/τ) ‖ softmax(S/τ)), see `softened_divergence`. Logits [B, classes]."""
    divergence = softened_divergence(student, teacher, temperature)
    return F.cross_entropy(student, labels) + alpha * temperature**2 * divergence


def attention(features: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H·W]: mean over channels of the square."""
    return features.square().mean(1).flatten(1)


def unit_norm(x: Tensor) -> Tensor:
    """[B, ...] -> [B, P]: each sample over its L2 norm (of 1e-12 at least)."""
    return F.normalize(x.flatten(1), dim=1, eps=1e-12)


def normalised_mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean over batch and positions of (x/|x| - y/|y|)², norms by sample; at most 4 over the number of positions."""
    return F.mse_loss(unit_norm(x), unit_norm(y))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`normalised_mse` of the attention maps of two feature maps of equal height and width."""
    return normalised_mse(attention(student), attention(teacher))


def forward_with_taps(network: Network, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits [B, classes] and the feature maps at `network.taps()`, shallow to deep, of one forward pass."""
    maps: list[Tensor] = []
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output: maps.append(output))
        for name in network.taps()
    ]
    try:
        return network(images), maps
    finally:
        for handle in handles:
            handle.remove()


def peer_logits(logits: Sequence[Tensor]) -> dict[str, Tensor]:
    """The logits of jointly trained students, and `ensemble`, their mean."""
    return {f"student{i}": z for i, z in enumerate(logits)} | {"ensemble": torch.stack(list(logits)).mean(0)}


class PeerNetworks(nn.Module):
    """Base of networks that learn together."""

    def predictions(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [B, classes] by name: student0, student1, ... and of what else can classify."""
        raise NotImplementedError


def peer_accuracies(model: PeerNetworks, split: AnySplit) -> dict[str, float]:
    """Top-1 (%) of everything that `model.predictions(images)` names, and `students`, the mean of the students'."""
    found = top1_of_each(model, model.predictions, split)
    return found | {"students": fmean(value for name, value in found.items() if name.startswith("student"))}
