"""The images that calibrate the activation ranges (not the training images): those of a temporary generator in training."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.data import DatasetInfo
from compressbench.data_free.generator import NOISE, Generator
from compressbench.data_free.norm_statistics import NormInputs
from methods.intraq.config import IntraQConfig


def calibration_images(
    teacher: nn.Module, config: IntraQConfig, info: DatasetInfo, random: torch.Generator, device: torch.device
) -> Iterator[Tensor]:
    """`calibration_steps` batches [calibration_batch, C, H, W], from a generator that learns CE(T(x), y) + 0.1 L_BN(x)."""
    count = config.calibration_batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=random)))
        generator = Generator(info.classes, info.channels, info.size, conditional=info.size >= 224).to(device)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    with NormInputs(teacher) as statistics:
        for _ in range(config.calibration_steps):
            noise = torch.randn(count, NOISE, generator=random).to(device)
            labels = torch.randint(info.classes, (count,), generator=random).to(device)
            with torch.enable_grad():
                images = generator(noise, labels)
                loss = F.cross_entropy(teacher(images), labels) + 0.1 * statistics.loss()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            yield images.detach()
