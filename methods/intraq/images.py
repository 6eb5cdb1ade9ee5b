"""Synthesis (§4 of the paper): pixels optimised against the teacher, diverse within each class."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from compressbench.data import SyntheticImages
from compressbench.data_free.boxes import random_boxes, resize_boxes
from compressbench.data_free.norm_statistics import NormInputs
from compressbench.data_free.synthesis import class_means, features_of, forward_with_features
from compressbench.models import Network
from methods.intraq.config import IntraQConfig


def soft_targets(count: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """τ [count]: U(ε, 1) with probability one half, else 1."""
    soft = torch.empty(count).uniform_(epsilon, 1, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, soft, 1.0)


def soft_inception_loss(probabilities: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """L_SIL = (1/B) Σ_i (p_i[y_i] − τ_i)²: squared error of one probability, not a cross-entropy."""
    return (probabilities.gather(1, labels[:, None])[:, 0] - targets).square().mean()


def marginal_distance_loss(features: Tensor, centres: Tensor, known: Tensor, lower: float, upper: float) -> Tensor:
    """L_MDC: cosine distance δ of each feature [B, d] to its class centre [B, d] kept within [λ_l, λ_u], where `known`."""
    distance = 1 - F.cosine_similarity(features, centres.detach(), eps=1e-6)
    known = known.to(features)
    penalty = (lower - distance).clamp(min=0) + (distance - upper).clamp(min=0)
    return (known * penalty).sum() / (known.sum() + 1e-6)


class Synthesizer:
    """Makes batch after batch; the class means of the features of all finished images are the centres of the next batch."""

    def __init__(
        self,
        teacher: Network,
        classes: int,
        config: IntraQConfig,
        generator: torch.Generator,
        device: torch.device,
    ):
        self.teacher, self.classes, self.config, self.generator, self.device = (
            teacher,
            classes,
            config,
            generator,
            device,
        )
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []

    def centres(self, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """(mean feature of each label's class, whether it has any) over all finished batches; None before the first."""
        if not self.labels:
            return None
        means, counts = class_means(torch.cat(self.features), torch.cat(self.labels), self.classes)
        return means[labels], counts[labels] > 0

    def batch(self, shape: tuple[int, int, int]) -> tuple[SyntheticImages, dict[str, float]]:
        """Optimise one batch of images [batch_size, *shape]; returns it with its first and last loss and learning rate."""
        config, count = self.config, self.config.batch_size
        labels = torch.randint(self.classes, (count,), generator=self.generator).to(self.device)
        images = torch.randn(count, *shape, generator=self.generator).to(self.device).requires_grad_()
        targets = soft_targets(count, config.epsilon, self.generator).to(self.device)
        centres = self.centres(labels)
        optimizer = torch.optim.Adam([images], lr=config.synthesis_lr)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=config.patience, threshold=1e-4, min_lr=1e-4)
        first = last = 0.0
        with NormInputs(self.teacher) as statistics:
            for step in range(config.steps):
                loss = self._loss(self._view(images), labels, targets, centres, statistics)
                images.grad = torch.autograd.grad(loss, images)[0]
                optimizer.step()
                last = loss.item()
                first = last if step == 0 else first
                scheduler.step(last)
        finished = images.detach()
        self.features.append(features_of(self.teacher, finished))
        self.labels.append(labels)
        return SyntheticImages(finished, labels), {
            "first_loss": first,
            "loss": last,
            "lr": optimizer.param_groups[0]["lr"],
        }

    def _view(self, images: Tensor) -> Tensor:
        """Local object reinforcement: with probability one half for the whole batch, each image's own random box, enlarged."""
        if self.config.synthesis != "intraq" or torch.rand((), generator=self.generator) >= 0.5:
            return images
        return resize_boxes(
            images, random_boxes(len(images), images.shape[2], images.shape[3], self.config.eta, self.generator)
        )

    def _loss(
        self,
        view: Tensor,
        labels: Tensor,
        targets: Tensor,
        centres: tuple[Tensor, Tensor] | None,
        statistics: NormInputs,
    ) -> Tensor:
        """L_BN + L_SIL + L_MDC, all of the augmented view; the baseline is L_BN + cross-entropy."""
        logits, features = forward_with_features(self.teacher, view)
        if self.config.synthesis == "bn_ce":
            return statistics.loss() + F.cross_entropy(logits, labels)
        loss = statistics.loss() + soft_inception_loss(logits.softmax(1), labels, targets)
        if centres is None:
            return loss
        return loss + marginal_distance_loss(features, *centres, self.config.lambda_lower, self.config.lambda_upper)
