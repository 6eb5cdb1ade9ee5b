"""The table and the figure of the kernel benchmark, from its CSV files."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from compressbench.reporting.style import GREY, PALETTE, new_figure, save, styled
from compressbench.reporting.tables import write_table
from compressbench.reporting.text import markdown_table

KINDS = {1: "pointwise", 3: "3x3"}


def write_kernels(layers: pd.DataFrame, sums: pd.DataFrame, published: Path, machine: str, out: Path) -> list[Path]:
    """tables/kernels.{csv,md}, tables/kernel_layers.csv, figures/kernels.{png,svg}.

    layers, sums: from `kernels.benchmark`; published: methods/one_by_n/published.csv, for the paper's own curve.
    """
    text = f"## Kernels against the best dense form\n\n{_table(sums)}\n\n{_binary_table(sums)}\n\n{_reading(sums, machine)}"
    written = write_table(out / "tables", "kernels", sums, text)
    layers.to_csv(out / "tables" / "kernel_layers.csv", index=False, float_format="%.6g", lineterminator="\n")
    with styled():
        written += save(_figure(sums, _paper(published)), out / "figures", "kernels")
    return [*written, out / "tables" / "kernel_layers.csv"]


def _name(n: int) -> str:
    return "unstructured" if n == 1 else f"1x{n}"


def _table(sums: pd.DataFrame) -> str:
    sparse = sums[sums["form"] == "sparse"]
    wide = sparse.pivot_table("speedup", ["network", "kernel", "threads", "n"], "sparsity", sort=False)
    share = sparse[sparse["sparsity"] == 0.75].set_index(["network", "kernel", "threads", "n"])["peak_share"]
    rows = []
    for (network, kernel, threads, n), values in zip(wide.index.tolist(), wide.to_numpy(), strict=True):
        row = {"sum of layers": f"{network} {KINDS[kernel]}", "threads": f"{threads}", "blocks": _name(n)}
        row |= {f"{100 * s:g} %": f"{value:.2f}" for s, value in zip(wide.columns, values, strict=True)}
        rows.append(row | {"share of peak at 75 %": f"{100 * share[network, kernel, threads, n]:.0f} %"})
    return markdown_table(pd.DataFrame(rows))


def _binary_table(sums: pd.DataFrame) -> str:
    binary = sums[sums["form"] == "binary"]
    rows = [
        {"binary 3x3 layers": r["network"], "threads": f"{r['threads']}", "speed-up": f"{r['speedup']:.2f}"}
        for r in binary.to_dict("records")
    ]
    return markdown_table(pd.DataFrame(rows, columns=["binary 3x3 layers", "threads", "speed-up"]))


def _reading(sums: pd.DataFrame, machine: str) -> str:
    losing = sums[(sums["form"] == "sparse") & (sums["speedup"] < 1)]
    places = ", ".join(
        f"{row['network']} {KINDS[row['kernel']]} {_name(row['n'])} at {100 * row['sparsity']:g} %"
        for row in losing.to_dict("records")
    )
    return (
        "- Speed-up: the sum over all layers of the time of the best dense form of each layer (torch NCHW, channels_last, "
        "packed for oneDNN, matrix products, ONNX Runtime), over the sum of our kernel's; minima of interleaved rounds, "
        "batch 1, fp32, random blocks. Binary: one-bit weights and activations, with the packing of the input.\n"
        "- Share of peak: operations on kept weights per second, over the multiply-add peak measured beside them.\n"
        f"- Dense wins: {places or 'nowhere in these sums'}. Layers one by one: kernel_layers.csv.\n"
        f"- {machine}"
    )


def _paper(published: Path) -> pd.DataFrame:
    """The authors' latencies of MobileNet-V2 with 1x4 blocks on a telephone: sparsity, speedup."""
    table = pd.read_csv(published)
    table = table[(table["metric"] == "latency_ms") & (table["source"].str.contains("Pixel 2"))]
    times = table.set_index("setting")["value"].astype(float)
    blocks = times[times.index.str.fullmatch(r"n4_p\d+")]
    sparsity = blocks.index.str.extract(r"_p(\d+)", expand=False).astype(float) / 100
    return pd.DataFrame({"sparsity": sparsity, "speedup": times["dense"] / blocks.to_numpy()})


def _figure(sums: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    sparse = sums[(sums["form"] == "sparse") & (sums["threads"] == 1)]
    panels = sparse[["network", "kernel"]].drop_duplicates().to_numpy().tolist()
    rows = (len(panels) + 1) // 2
    note = (
        "Sums over all layers of a kind, one thread, batch 1, fp32; the dense time is the best form of every single layer. "
        "Dashed: 1 / density. Dotted: the authors' own end-to-end times of MobileNet-V2 with 1x4 blocks on a Pixel 2.\n"
        "Below the line at 1×, dense is faster."
    )
    figure = new_figure(1.2 + 2.4 * rows, "Sparse kernels against sparsity", "Speed-up over the best dense form", note)
    grid = list(figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat)
    ideal = np.linspace(0, 0.95, 96)
    for axes, (network, kernel) in zip(grid, panels, strict=False):
        own = sparse[(sparse["network"] == network) & (sparse["kernel"] == kernel)]
        axes.plot(100 * ideal, 1 / (1 - ideal), color="#333333", lw=1, ls="--")
        axes.axhline(1, color=GREY, lw=0.8)
        if network == "MobileNet-V2":
            axes.plot(100 * paper["sparsity"], paper["speedup"], color=GREY, lw=1.2, ls=":")
        for (n, part), color in zip(own.groupby("n"), PALETTE, strict=False):
            axes.plot(100 * part["sparsity"], part["speedup"], "o-", color=color, ms=3.5, lw=1.3, label=_name(int(n)))  # type: ignore[arg-type]
        axes.set_title(f"{network}, {KINDS[kernel]}")
        axes.set_yscale("log")
        axes.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5×", "1×", "2×", "5×", "10×", "20×"])
        axes.minorticks_off()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].legend(loc="upper left")
    for axes in grid[max(0, len(panels) - 2) : len(panels)]:
        axes.set_xlabel("sparsity (%)")
        axes.tick_params(labelbottom=True)
    return figure
