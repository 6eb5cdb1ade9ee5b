"""The shared loop against a bare PyTorch loop: same model, same preloaded tensors, one thread. Prints the ratio."""

import statistics
import time

import torch
import torch.nn.functional as F

from compressbench import models
from compressbench.training import LearningRate, fit

STEPS, BATCH, ROUNDS = 40, 128, 5


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = models.build("resnet_cifar", in_channels=1, blocks=[1, 1, 1], widths=[16, 32, 64], stem_stride=2)
    return model.to(memory_format=torch.channels_last)


def bare(images: torch.Tensor, labels: torch.Tensor) -> float:
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    start = time.perf_counter()
    for _ in range(STEPS):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def shared(images: torch.Tensor, labels: torch.Tensor) -> float:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    start = time.perf_counter()
    fit(
        model,
        lambda step: (images, labels),
        lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]),
        [optimizer],
        epochs=2,
        steps_per_epoch=STEPS // 2,
        seed=0,
        hooks=[LearningRate(lambda step: 1.0)],
    )
    return time.perf_counter() - start


def ratio(rounds: int = ROUNDS) -> float:
    """Median over interleaved rounds of (shared loop) / (bare loop)."""
    torch.set_num_threads(1)
    images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    bare(images, labels)
    return statistics.median(shared(images, labels) / bare(images, labels) for _ in range(rounds))


if __name__ == "__main__":
    print(f"shared loop / bare loop = {ratio():.3f} (median of {ROUNDS} interleaved rounds of {STEPS} steps)")
