"""Figures that show images: synthetic images by class, and super-resolved photographs."""

from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressbench.reporting.collect import Results
from compressbench.reporting.frames import each
from compressbench.reporting.groups import Group
from compressbench.reporting.style import WIDTH, colors, new_figure, placeholder
from compressbench.reporting.summary import level_order

CLASSES, PER_CLASS, GRIDS = 10, 6, 3
PHOTOGRAPHS, NETWORKS = 3, 4


class Column(NamedTuple):
    """A column of crops: `{photograph}_{suffix}.png` in `folder`, scored by the results of (method, setting)."""

    title: str
    method: str
    setting: str
    folder: Path
    suffix: str


def synthetic(group: Group, results: Results) -> Figure:
    """Of every method a row per class, a column per image; the first seed, at most three grids side by side.

    Methods as they are come first, then their variants.
    """
    title = "Synthetic images"
    found = {series: folders[0] / "synthetic.safetensors" for series, folders in synthesized(group, results).items()}
    if not found:
        return placeholder(title, group.title, "no images have been synthesized")
    grids = {series: _class_grid(found[series]) for series in sorted(found, key=list(colors(group)).index)[:GRIDS]}
    shown = {series: grid for series, grid in grids.items() if grid is not None}
    if not shown:
        return placeholder(title, group.title, "the files of synthetic images are damaged")
    rows = max(len(classes) for _, classes in shown.values())
    note = (
        "Images that a method made against the trained network, without data or with a few images.\n"
        "Contrast is stretched per grid. A row is a class: images that look alike within a row mean little diversity."
    )
    width = WIDTH / len(shown) - 0.5  # of a grid; the rest is for the names of the classes
    figure = new_figure(1.1 + min(5.2, rows / PER_CLASS * width), title, group.title, note)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (series, (grid, classes)) in zip(panels, shown.items(), strict=True):
        size = grid.shape[0] / len(classes)
        axes.imshow(grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(series)
        axes.set_yticks((np.arange(len(classes)) + 0.5) * size, [f"class {c}" for c in classes], fontsize=7.5)
        _bare(axes)
    return figure


def synthesized(group: Group, results: Results) -> dict[str, list[Path]]:
    """Series -> the folders of its synthetic images, a seed each; settings that share images are one series."""
    found: dict[str, list[Path]] = {}
    for run in sorted(group.runs, key=lambda r: (group.methods.index(r.method), r.seed)):
        folder = results.folder(run, "synthesize")
        if (folder / "synthetic.safetensors").exists():
            found.setdefault(group.series(run.method, run.setting), []).append(folder)
    return found


def _class_grid(path: Path) -> tuple[np.ndarray, list[int]] | None:
    """([rows, columns] grey or [rows, columns, 3] in [0, 1], class of each row of images); None when unreadable."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError):
        return None
    images, labels = tensors["images"], tensors["labels"]
    classes = [int(c) for c in np.unique(labels)[:CLASSES]]
    low, high = np.percentile(images, (1, 99))
    images = np.clip((images - low) / max(high - low, 1e-12), 0, 1)
    channels, height, width = images.shape[1:]
    cell = np.ones((len(classes), PER_CLASS, channels, height + 2, width + 2), dtype=np.float32)
    for row, label in enumerate(classes):
        chosen = images[labels == label][:PER_CLASS]
        cell[row, : len(chosen), :, 1:-1, 1:-1] = chosen
    grid = cell.transpose(0, 3, 1, 4, 2).reshape(len(classes) * (height + 2), PER_CLASS * (width + 2), channels)
    return (grid[..., 0] if channels == 1 else grid[..., :3]), classes


def photographs(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """A row per photograph: bicubic, the networks at the strongest level that most methods have, the original."""
    title = "Super-resolved photographs"
    networks = _networks(group, summary, results)
    if not networks:
        return placeholder(title, group.title, "no crops have been written by the evaluate stage")
    crops = networks[0].folder
    names = sorted(p.name.removesuffix("_hr.png") for p in crops.glob("*_hr.png"))[:PHOTOGRAPHS]
    bicubic = next((m for m in group.methods if "bicubic" in m), "")
    columns = [Column("bicubic", bicubic, "", crops, "bicubic"), *networks, Column("original", "", "", crops, "hr")]
    note = "Under each crop: PSNR on Y of the whole photograph, first seed."
    figure = new_figure(0.8 + len(names) * (WIDTH / len(columns) + 0.1), title, group.title, note)
    panels = figure.subplots(len(names), len(columns), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        for axes, column in zip(row, columns, strict=True):
            _show(axes, column.folder / f"{name}_{column.suffix}.png")
            axes.set_xlabel(_psnr(group, results, column, name), fontsize=8)
        row[0].set_ylabel(name.replace("_", " "), fontsize=8)
    for axes, column in zip(panels[0], columns, strict=True):
        axes.set_title(column.title, fontsize=8, loc="center")
    return figure


def _networks(group: Group, summary: pd.DataFrame, results: Results) -> list[Column]:
    """The dense network, then methods and baselines at one level, best first, as far as they have crops."""
    points = summary[~summary.reference] if len(summary) else summary
    if points.empty:
        return []
    seed = min(run.seed for run in group.runs)
    runs = {(run.method, run.setting): run for run in group.runs if run.seed == seed}
    counts = points.groupby("level").method.nunique()
    level = max(reversed(level_order(summary)), key=lambda x: counts[x])
    main = points[points.level == level].drop_duplicates("method")
    compared = main.sort_values(["baseline", "quality"], ascending=[True, False])
    columns = []
    for row in each(pd.concat([summary[summary.method.map(group.is_dense)][:1], compared])):
        folder = results.folder(runs[row.method, row.setting], "evaluate") / "images"
        if any(folder.glob("*_sr.png")):
            strength = group.levels[row.method, row.setting].label.replace(" ", "\N{NO-BREAK SPACE}")
            words = f"{row.series}, {strength}" if strength else row.series
            columns.append(Column(fill(words, 18), row.method, row.setting, folder, "sr"))
    return columns[:NETWORKS]


def _psnr(group: Group, results: Results, column: Column, image: str) -> str:
    """The PSNR of a column's photograph where it was measured."""
    own = results.images[(results.images.dataset == group.dataset) & (results.images.model == group.model)]
    own = own[(own.image == image) & (own.method == column.method)].sort_values("seed", kind="stable")
    own = own[own.setting == column.setting] if column.setting else own
    return f"{own.psnr.iloc[0]:.2f} dB" if len(own) else ""


def _show(axes: Axes, path: Path) -> None:
    """A PNG file, or an empty frame where it is missing."""
    from PIL import Image

    if path.exists():
        axes.imshow(np.asarray(Image.open(path).convert("RGB")), interpolation="nearest")
    _bare(axes)
    axes.set_yticks([])


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
