"""Binary networks: latent weights before and after training, sign changes in the tails, and alignment with the magnitudes."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressbench.reporting.collect import Results
from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.style import FAINT, colors, dashes, new_figure, placeholder

Latent = dict[str, np.ndarray]
RARE = 1e-4  # densities below it are single weights


def latent_weights(group: Group, summary: pd.DataFrame, results: Results) -> Figure:
    """Densities of standardised latent weights, sign changes by epoch, and the best share of ones of every layer."""
    title = "Latent weights of binary networks"
    found = {row.series: read for row in each(summary) if (read := _read_all(group, results, row.method, row.setting))}
    if not found:
        return placeholder(title, group.title, "no binary network has left its latent weights")
    note = (
        "Each filter at mean 0 and standard deviation 1, all binary layers together; mean over seeds. Dotted: before "
        "training. Sign changes: of the weights beyond the 85 % Laplace quantile when the epoch starts.\n"
        "Share of ones: of the {0, 1} vector with the smallest angle to a layer's magnitudes, before (hollow) and after "
        "training; 1/e for a Laplace law, 0.54 for a Gaussian, 2/3 for a uniform one. SiMaN takes one half."
    )
    figure = new_figure(8.6, title, group.title, note)
    density, flips, share = figure.subplots(3, 1)
    palette, lines = colors(group), dashes(group)
    _densities(density, found, palette, lines)
    _flips(flips, group, results, palette, lines)
    _shares(share, found, palette)
    return figure


def _densities(axes: Axes, found: dict[str, list[Latent]], palette: dict[str, str], lines: dict[str, str]) -> None:
    edges = next(iter(found.values()))[0]["edges"]
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for series, seeds in found.items():
        for when, style, strength in (("before", ":", 0.5), ("after", lines[series], 1.0)):
            counts = np.mean([seed[f"counts_{when}"].sum(0) for seed in seeds], axis=0)
            values = counts / (counts.sum() * width)
            axes.plot(
                middle, np.where(values > 0, values, np.nan), style, color=palette[series], lw=1.1, alpha=strength
            )
    x = np.linspace(edges[0], edges[-1], 200)
    axes.plot(x, np.exp(-np.sqrt(2) * np.abs(x)) / np.sqrt(2), color=FAINT, lw=2, zorder=1)
    axes.annotate("Laplace", (3, np.exp(-np.sqrt(2) * 3) / np.sqrt(2)), fontsize=7.5, color="#888888")
    axes.set_yscale("log")
    axes.set_ylim(RARE, 2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title("density (logarithmic) of the standardised latent weight")
    _legend(axes, list(found), palette, lines)


def _legend(axes: Axes, names: list[str], palette: dict[str, str], lines: dict[str, str]) -> None:
    handles = [axes.plot([], [], lines[name], color=palette[name], lw=1.4)[0] for name in names]
    axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def _flips(axes: Axes, group: Group, results: Results, palette: dict[str, str], lines: dict[str, str]) -> None:
    history = of_group(results.history, group)
    axes.set_title("sign changes per epoch of weights in the tails (%)")
    axes.set_xlabel("epoch")
    if "tail_flips" not in history:
        return
    history = history[history.tail_flips.notna()]
    for key, part in history.groupby(["method", "setting"], sort=False):
        series = group.series(*map(str, key))
        mean = part.groupby("epoch").tail_flips.mean()
        axes.plot(mean.index + 1, mean, lines[series], color=palette[series], lw=1.3, marker=".", markersize=4)
    axes.set_ylim(bottom=0)


def _shares(axes: Axes, found: dict[str, list[Latent]], palette: dict[str, str]) -> None:
    for y, (series, seeds) in enumerate(reversed(found.items())):
        for when, face, shift in (("before", "white", 0.12), ("after", palette[series], -0.12)):
            layers = np.mean([seed[f"best_share_{when}"] for seed in seeds], axis=0)
            axes.plot(
                layers, np.full(len(layers), y + shift), "o", markersize=4.5, markerfacecolor=face,
                markeredgecolor=palette[series], markeredgewidth=1.0, linestyle="none", alpha=0.8,
            )  # fmt: skip
    for value, name in ((1 / np.e, "1/e"), (0.5, "1/2"), (2 / 3, "2/3")):
        axes.axvline(value, color="#333333", lw=0.9, ls="--", zorder=1)
        axes.annotate(
            name,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            fontsize=7.5,
        )
    axes.set_yticks(range(len(found)), list(reversed(found)), fontsize=8)
    axes.set_ylim(-0.6, len(found) - 0.1)
    axes.grid(axis="y", visible=False)
    axes.set_title("best share of ones, one dot per layer")


def _read_all(group: Group, results: Results, method: str, setting: str) -> list[Latent]:
    """Of every seed that has them."""
    paths = [
        results.folder(run, "compress") / "latent.safetensors"
        for run in group.runs
        if (run.method, run.setting) == (method, setting)
    ]
    return [latent for path in paths if (latent := _read(path))]


def _read(path: Path) -> Latent:
    """The tensors of one network; none when they are not there or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return {}
