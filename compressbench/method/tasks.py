"""What depends on the task: batches, loss, validation split, and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import data, quality
from compressbench.config import Recipe, Workload
from compressbench.data import AnySplit, DatasetInfo, Split
from compressbench.errors import UserError
from compressbench.training.loop import Loss

VALIDATION_IMAGES = 2000
PATCH = 32  # side of low-resolution patches where the pair says nothing


class Beside(NamedTuple):
    """What an evaluation has beside the network and the data.

    kept: what the last stage kept, see `Context.keep`. folder: for files beside metrics.json. dense: the dense model, where
    images have no labels.
    """

    kept: Mapping[str, Tensor]
    folder: Path
    dense: nn.Module | None = None


class Task(ABC):
    """One object per task, without state; `loaded` is what `data.load` returns for a data set of the task.

    labelled: whether its images have labels.
    """

    labelled: bool = True

    def image_shape(self, info: DatasetInfo, pair: Workload) -> tuple[int, int, int]:
        """[C, H, W] of what the network reads in accounting and latency."""
        return info.image_shape

    @abstractmethod
    def batches(self, loaded: Any, pair: Workload, recipe: Recipe, seed: int) -> Any:
        """Step -> batch, with `steps_per_epoch`."""

    @abstractmethod
    def loss(self, recipe: Recipe) -> Loss:
        """(model, batch) -> scalar."""

    def held_out(self, loaded: Any) -> AnySplit:
        """The images that a training is validated on, none of them trained on; empty where it is not validated."""
        return Split(torch.empty(0), torch.empty(0))

    def trained_classes(self, loaded: Any) -> int:
        """How many classes the training images have; 0 where they have none."""
        return 0

    @abstractmethod
    def evaluate(self, model: nn.Module, loaded: Any, beside: Beside) -> dict[str, Any]:
        """The content of `quality` in metrics.json: top1, psnr or agreement, and what else the task measures.

        Args:
            model: as the last stage of the method left it.
            loaded: the data.
            beside: what else there is.
        """


class Classification(Task):
    """Images and labels: cross-entropy and top-1 accuracy."""

    def batches(self, loaded: Any, pair: Workload, recipe: Recipe, seed: int) -> Any:
        return loaded.train.batches(recipe.batch_size, seed, recipe.augmentation)

    def loss(self, recipe: Recipe) -> Loss:
        return lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], label_smoothing=recipe.label_smoothing)

    def held_out(self, loaded: Any) -> AnySplit:
        held_out: AnySplit = loaded.validation.take(slice(VALIDATION_IMAGES))
        return held_out

    def trained_classes(self, loaded: Any) -> int:
        return loaded.info.classes

    def evaluate(self, model: nn.Module, loaded: Any, beside: Beside) -> dict[str, Any]:
        return {"top1": quality.top1(model, loaded.test)}


class ClassIncremental(Classification):
    """What is trained and validated on is the base session; a method keeps what its network predicts after every session."""

    def batches(self, loaded: Any, pair: Workload, recipe: Recipe, seed: int) -> Any:
        return loaded.train.batches(recipe.batch_size, seed, recipe.augmentation, loaded.protocol.crop_padding)

    def trained_classes(self, loaded: Any) -> int:
        return loaded.protocol.session_len[0]

    def evaluate(self, model: nn.Module, loaded: Any, beside: Beside) -> dict[str, Any]:
        return quality.evaluate_sessions(beside.kept, loaded.test.labels, loaded.protocol.session_len)


class SuperResolution(Task):
    """Pairs of images of low and high resolution: L1, PSNR and SSIM. The photographs are too few to hold some out."""

    def image_shape(self, info: DatasetInfo, pair: Workload) -> tuple[int, int, int]:
        size = pair.patch or PATCH
        return (info.channels, size, size)

    def batches(self, loaded: Any, pair: Workload, recipe: Recipe, seed: int) -> Any:
        patch = recipe.patch or pair.patch or PATCH
        return data.PatchBatches(loaded.train, loaded.upscaling, patch, recipe.batch_size, seed)

    def loss(self, recipe: Recipe) -> Loss:
        return lambda model, batch: F.l1_loss(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module, loaded: Any, beside: Beside) -> dict[str, Any]:
        return quality.evaluate_super_resolution(
            model, loaded.test, loaded.upscaling, pictures=beside.folder / "images"
        )


class Fidelity(Classification):
    """Images without labels: how close the outputs of a network are to those of the dense model. Nothing is trained."""

    labelled = False

    def loss(self, recipe: Recipe) -> Loss:
        raise UserError("these images have no labels, so that nothing can be trained on them; choose another pair.")

    def trained_classes(self, loaded: Any) -> int:
        return 0

    def evaluate(self, model: nn.Module, loaded: Any, beside: Beside) -> dict[str, Any]:
        assert beside.dense is not None, "the plan gives it to every evaluation without labels"
        return dict(quality.fidelity(model, beside.dense, loaded.test))


TASKS: dict[str, Task] = {
    "classification": Classification(),
    "class_incremental": ClassIncremental(),
    "fidelity": Fidelity(),
    "super_resolution": SuperResolution(),
}
