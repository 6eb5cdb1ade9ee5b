"""Quality of a model: top-1 accuracy, also session by session, PSNR and SSIM on luma as in super-resolution, and fidelity to
the network that it was made from."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.data.classification import AnySplit
from compressbench.data.imresize import upscale_bicubic
from compressbench.data.super_resolution import ImagePair, centre_crop
from compressbench.errors import UserError
from compressbench.files import in_memory, write_bytes
from compressbench.finite import best_class, finite, title

_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # ITU-R 601: black is 16, white is 235
_PICTURE_SIDE = 256


def _device(model: nn.Module) -> torch.device:
    """Where the model lives; the CPU for a model without parameters (bicubic)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def top1(model: nn.Module, split: AnySplit, batch: int = 100) -> float:
    """Percentage of images whose largest logit is the label, in eval mode; the model's mode is left as it was.

    Small batches keep the activations in the cache: 100 images took half the time of 500.
    """
    return top1_of_each(model, lambda images: {"": model(images)}, split, batch)[""]


@torch.no_grad()
def top1_of_each(
    model: nn.Module, predict: Callable[[Tensor], Mapping[str, Tensor]], split: AnySplit, batch: int = 100
) -> dict[str, float]:
    """`top1` of several predictions at once: `predict` gives logits by name, of networks that `model` consists of.

    Like all that judges a network here, `NotFinite` where one puts out NaN or infinity.
    """
    was_training, device = model.training, _device(model)
    model.eval()
    hits: Counter[str] = Counter()
    for images, truth in split.in_batches(batch):
        for name, logits in predict(images.to(device)).items():
            found = best_class(logits, f"{name} of {title(model)}" if name else title(model))
            hits[name] += int((found.cpu() == truth.cpu()).sum())
    model.train(was_training)
    return {name: 100 * count / len(split.labels) for name, count in hits.items()}


def in_parts(inputs: Tensor | AnySplit, batch: int) -> Iterator[Tensor]:
    """The rows of a tensor or the images of a split, `batch` at a time."""
    return (
        iter(inputs.split(batch)) if isinstance(inputs, Tensor) else (images for images, _ in inputs.in_batches(batch))
    )


@torch.no_grad()
def predictions(model: nn.Module, inputs: Tensor | AnySplit, batch: int = 100, name: str = "") -> Tensor:
    """The label of the largest output, int16 [N], in eval mode; the model's mode is left as it was. `name`: for errors."""
    was_training, device = model.training, _device(model)
    model.eval()
    found = torch.cat([best_class(model(x.to(device)), name or title(model)).cpu() for x in in_parts(inputs, batch)])
    model.train(was_training)
    return found.short()


@torch.no_grad()
def fidelity(model: nn.Module, reference: nn.Module, inputs: Tensor | AnySplit, batch: int = 16) -> dict[str, float]:
    """How close the outputs of `model` on images [N, C, H, W] are to those of the network that it was made from.

    agreement: per cent of images with the same largest logit. kl_divergence: KL(reference || model) of the predicted
    distributions, in nats, the mean over images. logits_snr: 10 log10(Σ z² / Σ (z − ẑ)²) over all logits z, in dB; left out
    where they are equal.
    """
    was_training, device = (model.training, reference.training), _device(model)
    model.eval(), reference.eval()
    same, count, divergence, signal, noise = 0, 0, 0.0, 0.0, 0.0
    for part in in_parts(inputs, batch):
        count += len(part)
        expected = finite(reference(part.to(device)), title(reference)).double()
        found = finite(model(part.to(device)), title(model)).double()
        same += int((expected.argmax(1) == found.argmax(1)).sum())
        logs = found.log_softmax(1), expected.log_softmax(1)
        divergence += F.kl_div(*logs, reduction="sum", log_target=True).item()
        signal += expected.square().sum().item()
        noise += (expected - found).square().sum().item()
    model.train(was_training[0]), reference.train(was_training[1])
    scores = {"agreement": 100 * same / count, "kl_divergence": divergence / count}
    return scores | ({"logits_snr": 10 * math.log10(signal / noise)} if noise > 0 else {})


@dataclass(frozen=True)
class SessionScore:
    """Accuracies in % after a session, over all classes seen so far.

    accuracy: ACC, the mean over sessions weighted by their classes. new: ACC_A, the classes of this session.
    old: ACC_M, the weighted mean over the earlier sessions. forgetting: mean over the earlier sessions of the best accuracy on
    their classes so far, less that of now, in points (Chaudhry et al. 2018). The last two are None after the base session.
    """

    accuracy: float
    new: float
    old: float | None
    forgetting: float | None


def session_accuracies(predicted: Tensor, labels: Tensor, session_len: Sequence[int]) -> list[float]:
    """acc_i in %, on the test images of the classes of session i, for every one in `session_len`; others do not count."""
    hits, ends = predicted.cpu() == labels.cpu(), [0, *accumulate(session_len)]
    chosen = [(labels >= start) & (labels < end) for start, end in pairwise(ends)]
    if empty := [i for i, own in enumerate(chosen) if not own.any()]:
        raise UserError(f"session {empty[0]} has no test image, so that it has no accuracy; add some of its classes.")
    return [100 * hits[own].double().mean().item() for own in chosen]


def session_score(history: Sequence[Sequence[float]], session_len: Sequence[int]) -> SessionScore:
    """The score of the last row of `history`: row t has the acc_i, i = 0..t, after session t."""
    now, last = history[-1], len(history) - 1
    accuracy = _weighted(now, session_len)
    if not last:
        return SessionScore(accuracy, now[-1], None, None)
    lost = [max(row[i] for row in history[i:-1]) - now[i] for i in range(last)]
    return SessionScore(accuracy, now[-1], _weighted(now[:-1], session_len), math.fsum(lost) / last)


def _weighted(accuracies: Sequence[float], session_len: Sequence[int]) -> float:
    used = session_len[: len(accuracies)]
    return math.fsum(a * n for a, n in zip(accuracies, used, strict=True)) / sum(used)


def evaluate_sessions(kept: Mapping[str, Tensor], labels: Tensor, session_len: Sequence[int]) -> dict[str, Any]:
    """Scores after every session, for every draw of the shots.

    Args:
        kept: "predictions/{draw}/{session}": the labels that the network after that session gives the test images [N].
        labels: [N], in order of appearance.
        session_len: classes of each session.

    Returns:
        {"top1": accuracy after the last session, mean over draws; "average_top1": the mean over sessions of it;
        "performance_drop": first less last session; "forgetting": after the last; "sessions": a row per draw and session}.
    """
    names = [name.split("/") for name in kept if name.startswith("predictions/")]
    draws, last = sorted({int(draw) for _, draw, _ in names}), len(session_len) - 1
    if not draws or len(names) != len(draws) * len(session_len):
        raise UserError(
            f"the method kept predictions of {len(names)} networks, not of one after each of the {len(session_len)} sessions "
            "of every draw; keep them in its last stage."
        )
    rows: list[dict[str, Any]] = []
    for draw in draws:
        history: list[list[float]] = []
        for session in range(last + 1):
            predicted = kept[f"predictions/{draw}/{session}"]
            history.append(session_accuracies(predicted, labels, session_len[: session + 1]))
            score = session_score(history, session_len)
            seen = sum(session_len[: session + 1])
            rows.append({"draw": draw, "session": session, "classes": seen, **asdict(score), "by_session": history[-1]})

    def mean(values: Iterable[float]) -> float:
        return math.fsum(found := list(values)) / len(found)

    final = [row for row in rows if row["session"] == last]
    top1 = mean(row["accuracy"] for row in final)
    return {
        "top1": top1,
        "average_top1": mean(row["accuracy"] for row in rows),
        "performance_drop": mean(row["accuracy"] for row in rows if row["session"] == 0) - top1,
        "forgetting": mean(row["forgetting"] for row in final),
        "sessions": rows,
    }


def to_levels(image: Tensor) -> Tensor:
    """Rounded and clipped to the 256 grey levels, uint8. ValueError where a pixel is NaN, which would become black."""
    if image.isnan().any():
        raise ValueError("an image with NaN has no grey levels")
    return image if image.dtype == torch.uint8 else image.round().clamp(0, 255).byte()


def luma(image: Tensor) -> Tensor:
    """RGB (or grey) [3 or 1, H, W] of 0..255 -> float64 Y [H, W] of 16..235, not rounded."""
    weights = torch.tensor(_LUMA, dtype=torch.float64, device=image.device)
    return 16 + torch.einsum("c,chw->hw", weights, image.double().expand(3, -1, -1))


def _luma_pair(sr: Tensor, hr: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """Luma of both images at 8 bits, the reference cropped to the result's size, without the border."""
    height, width = sr.shape[-2:]
    if min(height, width) <= 2 * border or hr.shape[-2] < height or hr.shape[-1] < width:
        raise ValueError(f"cannot compare {tuple(sr.shape)} with {tuple(hr.shape)} without a border of {border}")
    window = (..., slice(border, height - border), slice(border, width - border))
    return luma(to_levels(sr)[window]), luma(to_levels(hr)[window])


def psnr_y(sr: Tensor, hr: Tensor, upscaling: int) -> float:
    """PSNR in dB on Y without `upscaling` border pixels; images [3, H, W] of 0..255. Identical images: infinity."""
    a, b = _luma_pair(sr, hr, upscaling)
    mse = (a - b).square().mean().item()
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def _gaussian_blur(stack: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    """[N, H, W] -> [N, H - 10, W - 10]: separable Gaussian window, only where it fits wholly."""
    t = torch.arange(size, dtype=stack.dtype, device=stack.device) - size // 2
    g = torch.exp(-(t**2) / (2 * sigma**2))
    g /= g.sum()
    return F.conv2d(F.conv2d(stack[:, None], g.view(1, 1, -1, 1)), g.view(1, 1, 1, -1))[:, 0]


def ssim_y(sr: Tensor, hr: Tensor, upscaling: int) -> float:
    """SSIM on Y (Wang et al. 2004: Gaussian 11x11, sigma 1.5, K 0.01 and 0.03, L 255) without `upscaling` border pixels."""
    a, b = _luma_pair(sr, hr, upscaling)
    mean_a, mean_b, square_a, square_b, product = _gaussian_blur(torch.stack([a, b, a * a, b * b, a * b]))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (numerator / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean().item()


METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {"psnr": psnr_y, "ssim": ssim_y}


def mean_of_finite(values: Sequence[float]) -> float:
    """An infinite PSNR (a perfect image) is reported for its image and left out of the mean."""
    others = [v for v in values if v != math.inf]
    return math.fsum(others) / len(others) if others else math.inf


@torch.no_grad()
def enlarge(model: nn.Module, pairs: Sequence[ImagePair]) -> dict[str, Tensor]:
    """The enlarged images, uint8 [3, H, W] by name, one at a time: quantization ranges may depend on the batch."""
    was_training, device = model.training, _device(model)
    model.eval()
    outputs = {}
    for pair in pairs:
        image = finite(model(pair.low[None].float().to(device)), f"{title(model)}, given {pair.name},")[0]
        outputs[pair.name] = to_levels(image).cpu()
    model.train(was_training)
    return outputs


def evaluate_super_resolution(
    model: nn.Module, pairs: Sequence[ImagePair], upscaling: int, pictures: Path | None = None
) -> dict[str, Any]:
    """{"psnr": mean dB, "ssim": mean, "images": {name: {"psnr", "ssim"}}}; writes PNG files into `pictures`."""
    outputs = enlarge(model, pairs)
    images = {
        pair.name: {name: metric(outputs[pair.name], pair.high, upscaling) for name, metric in METRICS.items()}
        for pair in pairs
    }
    if pictures is not None:
        for pair in pairs:
            _write_pictures(pictures, pair, outputs[pair.name], upscaling)
    means = {name: mean_of_finite([scores[name] for scores in images.values()]) for name in METRICS}
    return {**means, "images": images}


def _write_pictures(folder: Path, pair: ImagePair, output: Tensor, upscaling: int) -> None:
    """The middle of the enlarged image, of the bicubic one and of the original: NAME_sr.png, _bicubic.png, _hr.png."""
    from PIL import Image

    bicubic = upscale_bicubic(pair.low[None].float(), upscaling)[0]
    for suffix, image in {"sr": output, "bicubic": bicubic, "hr": pair.high}.items():
        picture = Image.fromarray(to_levels(centre_crop(image, _PICTURE_SIDE)).permute(1, 2, 0).contiguous().numpy())
        write_bytes(folder / f"{pair.name}_{suffix}.png", in_memory(partial(picture.save, format="PNG")))
