"""GDFQ's generator of images against a teacher: linear layer, two up-samplings, three convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOISE = 100
EPS = 0.8  # the authors' second argument of BatchNorm2d: eps, where 0.8 looks like a momentum


class ConditionalNorm(nn.Module):
    """Batch normalisation without affine, then w[y] ⊙ x + b[y]."""

    def __init__(self, classes: int, channels: int, eps: float = 1e-5):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=eps, affine=False)
        self.scale, self.shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """[N, channels, H, W], labels [N] -> same shape."""
        return self.scale(labels)[:, :, None, None] * self.norm(x) + self.shift(labels)[:, :, None, None]


class PlainNorm(nn.BatchNorm2d):
    """Batch normalisation that ignores the labels."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[N, channels, H, W] -> same shape."""
        return super().forward(x)


class Generator(nn.Module):
    """Noise [N, 100] and labels [N] -> images [N, channels, size, size].

    `conditional` (ImageNet): the labels enter through class-conditional norms; else (CIFAR) the noise is multiplied
    by a class embedding. `width`: channels up to the second convolution; half of them after it.
    """

    def __init__(self, classes: int, channels: int, size: int, conditional: bool, width: int = 128):
        super().__init__()
        if size % 4:
            raise ValueError(f"the generator needs an image size that is a multiple of 4, not {size}")
        self.width, self.base = width, size // 4
        self.embedding = None if conditional else nn.Embedding(classes, NOISE)

        def norm(features: int, eps: float = 1e-5) -> nn.Module:
            return ConditionalNorm(classes, features, eps) if conditional else PlainNorm(features, eps=eps)

        half = width // 2
        self.project = nn.Linear(NOISE, width * self.base**2)
        self.norm0 = norm(width)
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), norm(width, EPS)
        self.conv2, self.norm2 = nn.Conv2d(width, half, 3, padding=1), norm(half, EPS)
        self.conv3, self.norm3 = nn.Conv2d(half, channels, 3, padding=1), nn.BatchNorm2d(channels, affine=False)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images around zero mean and unit variance per channel (the last norm has no affine part)."""
        z = noise if self.embedding is None else noise * self.embedding(labels)
        x = self.norm0(self.project(z).reshape(-1, self.width, self.base, self.base), labels)
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, scale_factor=2)), labels), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(F.interpolate(x, scale_factor=2)), labels), 0.2)
        return self.norm3(torch.tanh(self.conv3(x)))
