"""Classification data: whole data sets as tensors, and batches that are a pure function of (seed, step)."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.data.datasets import DatasetInfo, info, remedy
from compressbench.data.images import read_rgb
from compressbench.errors import UserError
from compressbench.seeding import generator

Augmentation = Literal["none", "flip", "crop_flip"]
_IDX_TYPE_UINT8 = 8


@dataclass(frozen=True)
class Split:
    """Images float32 [N, C, H, W], normalised (channels_last when C > 1), and labels int64 [N]."""

    images: Tensor
    labels: Tensor
    black: tuple[float, ...] = (0.0,)  # a black pixel after normalisation, per channel: what crops are padded with

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ClassificationData:
    """Three disjoint splits; validation comes out of the training images, never out of the test images."""

    info: DatasetInfo
    train: Split
    validation: Split
    test: Split


def external_folder(folder: Path) -> Path:
    """Where data sets that are too large to pin are looked for; `folder` is data/."""
    return Path(os.environ.get("COMPRESSBENCH_DATA") or folder / "external")


def read_idx(path: Path) -> np.ndarray:
    """A uint8 IDX file of any rank, memory-mapped and read-only."""
    try:
        head = np.fromfile(path, dtype=np.uint8, count=4)
        if len(head) < 4 or head[0] or head[1] or head[2] != _IDX_TYPE_UINT8:
            raise ValueError("not an IDX file of bytes")
        shape = tuple(int(n) for n in np.fromfile(path, dtype=">i4", count=int(head[3]), offset=4))
        start = 4 + 4 * int(head[3])
        if path.stat().st_size != start + np.prod(shape, dtype=np.int64):
            raise ValueError(f"its size does not fit its shape {shape}")
        return np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=shape)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy(path)}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy(path)}.") from error


def make_split(about: DatasetInfo, images: np.ndarray, labels: np.ndarray) -> Split:
    """Uint8 [N, H, W, C] or float [0, 1] images -> a normalised split."""
    mean, std = torch.tensor(about.mean), torch.tensor(about.std)
    x = torch.from_numpy(np.array(images))  # a copy: memory maps are read-only
    x = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
    x = x.sub_(mean).div_(std).permute(0, 3, 1, 2)
    if about.channels == 1:
        x = x.contiguous()
    return Split(x, torch.from_numpy(np.asarray(labels, dtype=np.int64)), tuple((-mean / std).tolist()))


def divide(
    about: DatasetInfo,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    validation: int,
    limit: int | None,
) -> ClassificationData:
    """The last `validation` training images become the validation split; `limit` cuts what is left to train on."""
    cut = len(train[1]) - validation
    kept = cut if limit is None else min(limit, cut)
    return ClassificationData(
        about,
        make_split(about, train[0][:kept], train[1][:kept]),
        make_split(about, train[0][cut:], train[1][cut:]),
        make_split(about, test[0], test[1]),
    )


def load_fashion_mnist(folder: Path, limit: int | None) -> ClassificationData:
    """60,000 and 10,000 grey images of 28x28 clothes (Xiao et al. 2017)."""
    folder = folder / "fashion_mnist"

    def part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
        if images.shape != (len(labels), 28, 28) or labels.max(initial=0) > 9:
            raise UserError(f"{folder}/{prefix}-*: images and labels do not fit; {remedy(folder / prefix)}.")
        return images[..., None], labels

    return divide(info("fashion_mnist"), part("train"), part("t10k"), validation=5_000, limit=limit)


def load_digits(folder: Path, limit: int | None) -> ClassificationData:
    """1,797 grey 8x8 digits of scikit-learn, enlarged to 16x16, in their order: the last ones are other writers.

    The networks halve the resolution three times, which leaves a single pixel of 8x8; enlarging (bilinear) rather than
    padding, because a padded digit would still be 1 pixel there and the rest a constant frame.
    """
    path = folder / "digits" / "digits.csv"
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        table = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2, encoding="utf-8")
        if table.shape != (1797, 65):
            raise ValueError(f"{table.shape} numbers instead of (1797, 65)")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy(path)}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy(path)}.") from error
    pixels = torch.from_numpy(table[:, :64] / 16).view(-1, 1, 8, 8)
    images = F.interpolate(pixels, scale_factor=2, mode="bilinear").permute(0, 2, 3, 1).numpy()
    labels = table[:, 64]
    return divide(info("digits"), (images[:1400], labels[:1400]), (images[1400:], labels[1400:]), 200, limit)


def load_cifar(
    name: str, folder: Path, limit: int | None, about: DatasetInfo | None = None, validation: int = 5_000
) -> ClassificationData:
    """CIFAR-10 or CIFAR-100 in the layout of torchvision, which checks the files itself.

    `about` normalises otherwise than the data set's own info says.
    """
    from compressbench.torchvision_compat import torchvision

    folder = external_folder(folder)
    reader = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        train, test = reader(folder, train=True), reader(folder, train=False)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{name} is not in {folder} or is damaged; "
            f"put torchvision's {reader.base_folder}/ there or set COMPRESSBENCH_DATA."
        ) from error
    arrays, test_arrays = ((part.data, np.asarray(part.targets)) for part in (train, test))
    return divide(about or info(name), arrays, test_arrays, validation, limit)


def load_cub(folder: Path, limit: int | None, about: DatasetInfo) -> ClassificationData:
    """CUB-200-2011 as it is distributed, with its own division into training and test images, resized to squares.

    Nothing is held out: a class has about 30 training images.
    """
    from PIL import Image

    folder = external_folder(folder) / "CUB_200_2011"

    def column(name: str) -> list[str]:
        return [line.split()[1] for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    def read(part: list[int]) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(part), about.size, about.size, 3), dtype=np.uint8)
        for i, chosen in enumerate(part):
            image = Image.fromarray(read_rgb(folder / "images" / files[chosen]))
            images[i] = np.asarray(image.resize((about.size, about.size), Image.Resampling.BILINEAR))
        return images, np.array([labels[chosen] for chosen in part], dtype=np.int64)

    try:
        files, is_train = column("images.txt"), column("train_test_split.txt")
        labels = [int(label) - 1 for label in column("image_class_labels.txt")]
        parts = [[i for i, flag in enumerate(is_train) if flag == wanted] for wanted in ("1", "0")]
        return divide(about, read(parts[0]), read(parts[1]), validation=0, limit=limit)
    except (OSError, SyntaxError, ValueError, IndexError) as error:
        raise UserError(
            f"CUB-200-2011 is not in {folder} or is damaged ({error}); unpack it there or set COMPRESSBENCH_DATA."
        ) from error


def load_imagenet(folder: Path, limit: int | None) -> ClassificationData:
    """ImageNet does not fit into one tensor; the suite checks its networks at full size but trains them elsewhere."""
    raise UserError(
        "imagenet does not fit in memory, and other data sets cannot be loaded; choose a pair of another one."
    )


class ClassificationBatches:
    """Shuffled, augmented batches: `batches(step)` depends on nothing but (seed, step).

    Every pass has its own order and drops the last partial batch. `padding` is that of crops; default: an eighth of the image.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        augmentation: Augmentation = "none",
        padding: int | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(split):
            raise UserError(f"batch_size {batch_size} does not fit {len(split)} training images; lower it.")
        self.split, self.batch_size, self.seed, self.augmentation = split, batch_size, seed, augmentation
        self.steps_per_epoch = len(split) // batch_size
        self._padding = split.images.shape[-1] // 8 if padding is None else padding
        # Gathering rows of [N, H, W, C] keeps channels_last, which gathering from [N, C, H, W] would lose.
        self._channels_last = split.images.shape[1] > 1
        self._rows = split.images.permute(0, 2, 3, 1) if self._channels_last else split.images
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def _draw_permutation(self, pass_: int) -> Tensor:
        return torch.randperm(len(self.split), generator=generator(self.seed, "order", pass_)).to(self._rows.device)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B] of one step."""
        pass_, position = divmod(step, self.steps_per_epoch)
        chosen = self._permutation(pass_)[position * self.batch_size : (position + 1) * self.batch_size]
        images, labels = self._rows.index_select(0, chosen), self.split.labels.index_select(0, chosen)
        return self._augment(images.permute(0, 3, 1, 2) if self._channels_last else images, step), labels

    def _augment(self, images: Tensor, step: int) -> Tensor:
        if self.augmentation == "none":
            return images
        rng = generator(self.seed, "augmentation", step)
        if self.augmentation == "crop_flip":
            images = random_crop(images, self._padding, self.split.black, rng)
        return random_flip(images, rng)


def random_flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image of [B, C, H, W] is mirrored horizontally with probability 1/2."""
    mirrored = (torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5).to(images.device)
    return torch.where(mirrored, images.flip(-1), images)


def random_crop(images: Tensor, padding: int, black: tuple[float, ...], rng: torch.Generator) -> Tensor:
    """Pads [B, C, H, W] with black and cuts a window of the old size out of each image (4 pixels for 32x32)."""
    count, channels, height, width = images.shape
    frame = images.new_tensor(black).expand(channels).view(1, -1, 1, 1)
    padded = F.pad(images - frame, (padding,) * 4) + frame
    top, left = torch.randint(2 * padding + 1, (2, count), generator=rng).to(images.device)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(count, device=images.device), :, top, left]
    return cropped.contiguous(memory_format=torch.channels_last) if channels > 1 else cropped
