"""Synthetic images on disk, and statistics of a set of labelled images."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.data import SyntheticImages
from compressbench.data_free.boxes import random_boxes, resize_boxes
from compressbench.errors import UserError
from compressbench.files import in_memory, read_json, write_bytes, write_json
from compressbench.finite import best_class, title
from compressbench.method import Context
from compressbench.models import Network
from compressbench.seeding import generator
from compressbench.training.layout import channels_last

PREVIEW_CLASSES = 10
PREVIEW_IMAGES = 10


def save_synthetic(synthetic: SyntheticImages, ctx: Context) -> None:
    """Write synthetic.safetensors (with what the stage kept), synthetic.json (its teacher, its diversity) and preview.png."""
    from compressbench.storage import save_tensors

    images, labels = synthetic.images.detach().cpu().float().contiguous(), synthetic.labels.cpu().long()
    if len(images) != len(labels) or not torch.isfinite(images).all():
        raise UserError(
            f"{ctx.folder}: the synthetic images are not finite or not one per label; lower the synthesis learning rate."
        )
    save_tensors(ctx.folder / "synthetic.safetensors", {"images": images, "labels": labels} | ctx.companions)
    description = {
        "images": list(images.shape),
        "labels_per_class": torch.bincount(labels, minlength=ctx.info.classes).tolist(),
        "distance_within_class": _record_diversity(synthetic, ctx),
        "teacher_sha256": teacher_hash(ctx),
        "seed": ctx.seed,
        "settings": "run.json",
    }
    write_json(ctx.folder / "synthetic.json", description)
    write_preview(images, labels, ctx.folder / "preview.png")


@torch.no_grad()
def _record_diversity(synthetic: SyntheticImages, ctx: Context) -> dict[str, list[float | None]]:
    """By class, `intra_class_distances` of the set and of as many real images; records the means and what the teacher thinks.

    The real images only serve as the reference here: no synthetic image depends on them.
    """
    teacher = frozen_teacher(ctx)
    hits = [
        best_class(teacher(x), "the teacher") == y
        for x, y in zip(*(part.split(256) for part in synthetic), strict=True)
    ]
    ctx.record("teacher_accuracy", 100 * torch.cat(hits).float().mean().item())
    real = real_images(ctx, len(synthetic.labels), ctx.generator("reference"))
    found = {}
    for name, suffix, (images, labels) in (("synthetic", "", synthetic), ("real", "_real", real)):
        distances = intra_class_distances(features_of(teacher, images), labels, ctx.info.classes)
        ctx.record(f"intra_class_distance{suffix}", distances.mean().item())
        by_class = [distances[labels == c] for c in range(ctx.info.classes)]
        found[name] = [own.mean().item() if len(own) else None for own in by_class]
    return found


def real_images(ctx: Context, count: int, generator: torch.Generator) -> SyntheticImages:
    """A random sample of the training images; those without labels get the dense model's."""
    train = ctx.data.train
    chosen = torch.randperm(len(train.labels), generator=generator)[:count]
    images = train.images_at(chosen).to(ctx.device)
    if not ctx.task.labelled:
        return labelled_by(frozen_teacher(ctx), images)
    return SyntheticImages(images, train.labels[chosen].to(ctx.device))


@torch.no_grad()
def labelled_by(teacher: nn.Module, images: Tensor) -> SyntheticImages:
    """The images [N, C, H, W] with the class that the teacher sees in each."""
    return SyntheticImages(images, torch.cat([best_class(teacher(x), "the teacher") for x in images.split(256)]))


def teacher_hash(ctx: Context) -> str | None:
    """SHA-256 of the dense model's tensors, None where the method has no dense model."""
    if ctx.dense_folder is None:
        return None
    return hashlib.sha256((ctx.dense_folder / "model.safetensors").read_bytes()).hexdigest()


def check_teacher(ctx: Context) -> None:
    """UserError when the synthetic images were made against another dense model than the one in use."""
    if ctx.synthetic_file is None:
        return
    description = ctx.synthetic_file.with_suffix(".json")
    if read_json(description)["teacher_sha256"] != teacher_hash(ctx):
        raise UserError(
            f"{description}: key teacher_sha256 is not that of {ctx.dense_folder}; run the stage synthesize again."
        )


def frozen_teacher(ctx: Context) -> Network:
    """The dense model, frozen; without batch norms there is nothing to match."""
    teacher = channels_last(ctx.dense().requires_grad_(False))
    check_norms(teacher)
    return teacher


def check_norms(network: nn.Module) -> None:
    """UserError where no batch normalisation remembers what the network was trained on."""
    if not any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
        raise UserError(
            "this method matches the statistics that batch normalisation keeps in the teacher; "
            f"{title(network)} has none, choose another pair."
        )


def write_preview(images: Tensor, labels: Tensor, path: Path) -> None:
    """A row per class (the first ten), each image stretched between its own 1st and 99th percentile."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = labels.unique()[:PREVIEW_CLASSES].tolist()
    figure = Figure(figsize=(PREVIEW_IMAGES * 0.6 + 0.6, len(classes) * 0.6), facecolor="white")
    axes = figure.subplots(len(classes), PREVIEW_IMAGES, squeeze=False)
    for row, label in zip(axes, classes, strict=True):
        chosen = images[labels == label][:PREVIEW_IMAGES]
        for axis in row:
            axis.axis("off")
        for axis, image in zip(row, chosen, strict=False):
            axis.imshow(_displayable(image), cmap="gray", vmin=0, vmax=1)
        row[0].text(-0.15, 0.5, str(label), transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(left=0.06, right=1, bottom=0, top=1, wspace=0.05, hspace=0.05)
    FigureCanvasAgg(figure)
    write_bytes(path, in_memory(lambda file: figure.savefig(file, format="png", dpi=150, metadata={"Software": None})))


def _displayable(image: Tensor) -> Tensor:
    """[C, H, W] of any range -> [H, W] or [H, W, 3] in 0..1."""
    lo, hi = torch.quantile(image.flatten(), torch.tensor([0.01, 0.99]))
    return ((image - lo) / (hi - lo).clamp(min=1e-8)).clamp(0, 1).permute(1, 2, 0).squeeze(-1)


@torch.no_grad()
def features_of(model: Network, images: Tensor, chunk: int = 64) -> Tensor:
    """Pooled features [N, d] in chunks."""
    return torch.cat([model.features(part) for part in images.split(chunk)])


def class_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(means [classes, d], counts [classes]); a class without a feature has mean 0."""
    counts = torch.bincount(labels, minlength=classes)
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / counts.clamp(min=1)[:, None], counts


def intra_class_distances(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[N]: cosine distance of each feature to the mean feature of its class; their mean is the diversity within classes."""
    means, _ = class_means(features, labels, classes)
    return 1 - F.cosine_similarity(features, means[labels], eps=1e-6)


def forward_with_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """(logits [N, classes], pooled features [N, d]) of one forward pass through a classifier."""
    pooled: list[Tensor] = []
    pool = model.get_submodule("pool")
    handle = pool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    try:
        return model(images), pooled[0]
    finally:
        handle.remove()


class SyntheticBatches:
    """Shuffled mini-batches of a synthetic set, every image cut to a random box, as a pure function of (seed, step).

    Incomplete batches are dropped; a set smaller than one batch is one batch.
    """

    def __init__(self, synthetic: SyntheticImages, batch_size: int, smallest_box: float, *seed: object):
        self.synthetic, self.smallest_box, self.seed = synthetic, smallest_box, seed
        self.batch_size = min(batch_size, len(synthetic.labels))
        self.steps_per_epoch = len(synthetic.labels) // self.batch_size

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B]."""
        images, labels = self.synthetic
        order = torch.randperm(len(labels), generator=generator(*self.seed, "order", step // self.steps_per_epoch))
        start = step % self.steps_per_epoch * self.batch_size
        chosen = order[start : start + self.batch_size]
        boxes = random_boxes(
            len(chosen), images.shape[2], images.shape[3], self.smallest_box, generator(*self.seed, "boxes", step)
        )
        return resize_boxes(images[chosen], boxes), labels[chosen]
