"""Masks with one number per class and channel. Forward hooks apply them, so that the network keeps its names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.models import Network


def mixture(labels: Tensor, classes: int, noise: bool = True) -> Tensor:
    """D [N, K]: 1 at the label, else uniform noise of [0, 1) from torch's global generator (0 without noise)."""
    own = F.one_hot(labels, classes).bool()
    rest = (torch.rand if noise else torch.zeros)(own.shape)
    return torch.where(own, 1.0, rest.to(labels.device))


def scaled(x: Tensor, guide: Tensor) -> Tensor:
    """G[n, c] x[n, c, h, w]: x [N, C, H, W], guide [N, C] or [1, C]."""
    return x * guide[:, :, None, None]


class ClassMasks(nn.Module):
    """A network whose feature maps are scaled channel by channel by combinations of the rows of masks M [K, C].

    `names` lists the convolutions that have a mask, `sites` the module whose output it scales; a mask without a site
    is never applied. In training the forward pass needs the labels. In evaluation it ignores them, and every sample
    gets the mean mask.
    """

    def __init__(
        self, network: Network, names: Sequence[str], sites: Mapping[str, str], classes: int, noise: bool = True
    ) -> None:
        super().__init__()
        self.network, self.names, self.classes, self.noise = network, tuple(names), classes, noise
        widths = [len(network.get_parameter(f"{name}.weight")) for name in names]
        device = next(network.parameters()).device
        self.masks = nn.ParameterList([torch.ones(classes, width, device=device) for width in widths])
        self._labels: Tensor | None = None
        for name, mask in self.named_masks().items():
            if name in sites:
                network.get_submodule(sites[name]).register_forward_hook(self._hook(mask))

    def _hook(self, mask: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda module, inputs, output: scaled(output, self.guide(mask))

    def named_masks(self) -> dict[str, Tensor]:
        """M [K, C] by convolution."""
        return dict(zip(self.names, self.masks, strict=True))

    def guide(self, mask: Tensor) -> Tensor:
        """G = D M [N, C] with a fresh D for the labels of the running forward pass; the mean mask [1, C] without."""
        if self._labels is None:
            return self._mean(mask)[None]
        return mixture(self._labels, self.classes, self.noise) @ mask

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """[N, c, H, W] -> logits [N, K]. `labels` int64 [N] are needed in training and ignored in evaluation."""
        if not self.training:
            return self.network(images)
        if labels is None:
            raise ValueError("class masks train with the labels in the forward pass")
        return self.told(images, labels)

    def told(self, images: Tensor, labels: Tensor) -> Tensor:
        """The logits of a forward pass with masks chosen by these labels, in any mode: for training and for evaluation."""
        self._labels = labels
        try:
            return self.network(images)
        finally:
            self._labels = None

    def penalty(self) -> Tensor:
        """Σ_l ‖Σ_k M_l[k, :]‖₂ over all masks, applied or not."""
        return torch.stack([torch.linalg.vector_norm(mask.sum(0)) for mask in self.masks]).sum()

    def scores(self) -> dict[str, Tensor]:
        """|Σ_k M[k, :]| [C] by convolution: the classes vote, and votes for and against cancel."""
        return {name: mask.detach().sum(0).abs() for name, mask in self.named_masks().items()}

    def mean_masks(self) -> dict[str, Tensor]:
        """μ [C] by convolution, with its sign."""
        return {name: self._mean(mask.detach()) for name, mask in self.named_masks().items()}

    def _mean(self, mask: Tensor) -> Tensor:
        """½ Σ_k M[k, :], about the expected guide: the noise has mean ½. Without noise 1/K Σ_k M[k, :]."""
        return mask.sum(0) * (0.5 if self.noise else 1 / self.classes)


def class_loss(strength: float, label_smoothing: float) -> Callable[[ClassMasks, Any], Tensor]:
    """Cross-entropy + λ penalty. With λ = 0, too: a zero gradient lets the optimiser decay masks that nothing uses."""

    def loss(model: ClassMasks, batch: Any) -> Tensor:
        images, labels = batch
        entropy = F.cross_entropy(model(images, labels), labels, label_smoothing=label_smoothing)
        return entropy + strength * model.penalty()

    return loss
