"""The page, the tables and the figure of the kernel benchmark."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from compressbench.files import write_text
from compressbench.reporting.style import GREY, PALETTE, new_figure, save, styled
from compressbench.reporting.text import markdown_table

KINDS: dict[Any, str] = {1: "pointwise", 3: "3x3"}


def write_kernels(frames: Mapping[str, pd.DataFrame], published: Path, machine: str, out: Path) -> list[Path]:
    """tables/kernels.md, tables/kernel_FRAME.csv for every one of `frames`, figures/kernels.{png,svg}.

    frames: what `kernels.benchmark.measure` returns. published: methods/one_by_n/published.csv, for the paper's own curve.
    """
    sums = frames["sums"]
    sections = [
        "## Kernels against the best dense form",
        _sums_table(sums),
        _reading(sums, machine),
        "## Binary convolutions",
        _binary_table(frames["layers"]),
        "One-bit weights and activations, packing of the input included, over the best fp32 form of the layer.",
        _binary_networks_table(frames["binary"]),
        "Whole networks with one-bit convolutions in the form of ReCU, the first and the last layer and shortcuts in fp32, "
        "over the dense network (ReLU) on its fastest runtime, in fp32 and in int8 (one range per channel of a weight, one "
        "per input).",
        "## In sequence",
        _sequence_table(frames["sequences"]),
        "All pointwise layers of stride 1 one after the other between two shared buffers, over the same with each layer in its "
        "fastest PyTorch form.",
        "## End to end",
        _network_table(frames["networks"]),
        "Whole networks with random weights, blocks in every convolution but the first and the depthwise ones; the "
        "classifier is dense. The runtime `compressbench` runs dense networks, too: each layer in its fastest dense form "
        "or on our kernel with all its blocks, batch norms, sums and activations fused.",
        "## Batches",
        _batch_table(frames["batches"]),
        "Images per second of whole networks with one thread.",
        *_int8_sections(frames.get("int8", pd.DataFrame())),
        "## More threads",
        _thread_table(sums, frames["scaling"]),
        "Speed-up over the best dense form of every layer with as many threads. The other columns: our time with one "
        "thread over that with so many, no other library in between. SUBP has equally many blocks in every block row, 1xN "
        "as they fall; threads take equal work (what the kernel does) or equally many block rows (what SUBP is meant for).",
        _whole_table(frames["threads"]),
        "Whole networks, our runtime alone.",
    ]
    text = "\n\n".join(sections)
    written = [out / "tables" / "kernels.md"]
    write_text(written[0], text + "\n")
    for name, frame in frames.items():
        written.append(out / "tables" / f"kernel_{name}.csv")
        write_text(written[-1], frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    with styled():
        return written + save(_figure(sums, _paper(published)), out / "figures", "kernels")


def _name(n: Any) -> str:
    return "unstructured" if n == 1 else f"1x{n}"


def _plain(sums: pd.DataFrame) -> pd.DataFrame:
    """The sparse sums of one thread."""
    return sums[(sums["form"] == "sparse") & (sums["threads"] == 1)]


def break_even(points: Sequence[tuple[float, float]]) -> float:
    """The sparsity from which the kernel is faster than dense, between measured (sparsity, speed-up) on straight lines.

    The smallest measured sparsity if it always is; NaN if never.
    """
    points = sorted(points)
    slower = [k for k, (_, ratio) in enumerate(points) if ratio < 1]
    if not slower:
        return points[0][0]
    if slower[-1] + 1 == len(points):
        return float("nan")
    (s0, r0), (s1, r1) = points[slower[-1] : slower[-1] + 2]
    return s0 + (1 - r0) / (r1 - r0) * (s1 - s0)


def _sums_table(sums: pd.DataFrame) -> str:
    rows = []
    for (network, kernel, n), own in _plain(sums).groupby(["network", "kernel", "n"], sort=False):  # type: ignore[misc]
        row = {"sum of layers": f"{network} {KINDS[kernel]}", "blocks": _name(n)}
        row |= {f"{100 * r['sparsity']:g} %": f"{r['speedup']:.2f}" for r in own.to_dict("records")}
        share = own[own["sparsity"] == 0.75]["peak_share"]
        row["share of peak at 75 %"] = f"{100 * share.item():.0f} %" if len(share) else ""
        even = break_even(list(zip(own["sparsity"], own["speedup"], strict=True)))
        rows.append(row | {"breaks even at": f"{100 * even:.0f} %"})
    return markdown_table(pd.DataFrame(rows))


def _binary_table(layers: pd.DataFrame) -> str:
    single = layers[layers["threads"] == 1]
    binary = single[single["form"] == "binary"]
    dense = single[~single["form"].isin(["sparse", "binary", "peak"])].groupby(["network", "layer"])["min_ms"].min()
    rows = []
    for network, own in binary.groupby("network", sort=False):
        ratios = [dense[network, layer] / ms for layer, ms in zip(own["layer"], own["min_ms"], strict=True)]
        total = sum(dense[network, layer] * count for layer, count in zip(own["layer"], own["count"], strict=True))
        shapes = ", ".join(f"{layer} {ratio:.1f}" for layer, ratio in zip(own["layer"], ratios, strict=True))
        speedup = total / (own["min_ms"] * own["count"]).sum()
        rows.append({"3x3 layers of": network, "speed-up": f"{speedup:.1f}", "shape by shape": shapes})
    return markdown_table(pd.DataFrame(rows), ["3x3 layers of", "shape by shape"])


def _binary_networks_table(networks: pd.DataFrame) -> str:
    rows = []
    for (network, threads), own in networks.groupby(["network", "threads"], sort=False):  # type: ignore[misc]
        binary = own[own["form"] == "binary"]["min_ms"].item()
        row = {"network": network, "threads": f"{threads}", "binary ms": f"{binary:.3g}"}
        for form, name in (("dense", "fp32"), ("dense int8", "int8")):
            dense = own[own["form"] == form].set_index("runtime")["min_ms"]
            row[f"fastest {name}"] = f"{dense.min():.3g} ({dense.idxmin()})" if len(dense) else "none here"
            row[f"over {name}"] = f"{dense.min() / binary:.2f}" if len(dense) else ""
        rows.append(row)
    return markdown_table(pd.DataFrame(rows))


def _sequence_table(sequences: pd.DataFrame) -> str:
    rows = []
    for (network, threads), own in sequences.groupby(["network", "threads"], sort=False):  # type: ignore[misc]
        dense = own[own["form"] == "dense"]["min_ms"].item()
        sparse = own[own["form"] == "sparse"]
        for n in sparse["n"].unique():
            row = {"network": network, "threads": f"{threads}", "blocks": _name(n)}
            blocks = sparse[sparse["n"] == n].to_dict("records")
            ratios = {f"{100 * r['sparsity']:g} %": f"{dense / r['min_ms']:.2f}" for r in blocks}
            rows.append(row | ratios | {"dense ms": f"{dense:.2f}"})
    return markdown_table(pd.DataFrame(rows))


def _network_table(networks: pd.DataFrame) -> str:
    rows = [
        {"network": network, "threads": f"{threads}", **_whole_networks(own, lambda ms: f"{ms:.1f}")}
        for (network, threads), own in networks.groupby(["network", "threads"], sort=False)  # type: ignore[misc]
    ]
    return markdown_table(pd.DataFrame(rows))


def _batch_table(batches: pd.DataFrame) -> str:
    """Images per second."""
    if batches.empty:
        return "Not measured."
    rows = [
        {"network": network, "batch": f"{batch}", **_whole_networks(own, lambda ms: f"{1e3 / ms:.1f}")}
        for (network, batch), own in batches.groupby(["network", "batch"], sort=False)  # type: ignore[misc]
    ]
    return markdown_table(pd.DataFrame(rows))


def _whole_networks(own: pd.DataFrame, shown: Callable[[float], str]) -> dict[str, str]:
    """Of one network: dense on every runtime, with blocks, and the speed-up over the best dense one."""
    dense = own[own["form"] == "dense"].set_index("runtime")["min_ms"]
    sparse = own[own["form"] == "sparse"].iloc[0]
    label = f"{_name(sparse['n'])} at {100 * sparse['sparsity']:g} %"
    return {
        **{f"dense {runtime}": shown(ms) for runtime, ms in dense.items()},
        label: shown(sparse["min_ms"]),
        "speed-up over best": f"{dense.min() / sparse['min_ms']:.2f}",
    }


def _whole_table(threads: pd.DataFrame) -> str:
    rows = [
        {
            "network": r["network"], "blocks": f"{_name(r['n'])} at {100 * r['sparsity']:g} %", "threads": f"{r['threads']}",
            "one thread, ms": f"{r['alone_ms']:.2f}", "with all": f"{r['together_ms']:.2f}",
            "ratio": f"{r['alone_ms'] / r['together_ms']:.2f}",
        }
        for r in threads.to_dict("records")
    ]  # fmt: skip
    return markdown_table(pd.DataFrame(rows)) if rows else "Not measured: this machine has one core."


def _int8_sections(int8: pd.DataFrame) -> list[str]:
    if int8.empty:
        return []
    rows = []
    for network in int8["network"].unique():
        own = int8[int8["network"] == network]
        for whole in (False, True):
            part = own[(own["layer"] == "whole network") == whole]
            if part.empty:
                continue
            total = (part["min_ms"] * part["count"]).groupby([part["form"], part["n"], part["sparsity"]]).sum()
            dense = {form: ms for (form, n, _), ms in total.items() if n == 0}  # type: ignore[misc]
            fp32 = [ms for form, ms in dense.items() if form != "openvino_int8"]
            for (form, n, sparsity), ms in total.items():  # type: ignore[misc]
                if form == "blocks":
                    row = {"network": network, "what": "whole" if whole else "pointwise layers", "blocks": _name(n)}
                    row |= {"sparsity": f"{100 * sparsity:g} %", "ms": f"{ms:.2f}"}
                    row |= {"over OpenVINO int8": f"{dense['openvino_int8'] / ms:.2f}"}
                    rows.append(row | {"over the best fp32": f"{min(fp32) / ms:.2f}" if fp32 else ""})
    return [
        "## Blocks in int8",
        markdown_table(pd.DataFrame(rows)),
        "1xN blocks of int8 weights on uint8 activations with one thread. OpenVINO runs the dense layer, or network, in int8; "
        "of its single layers the time is that of its own counters.",
    ]


def _thread_table(sums: pd.DataFrame, scaling: pd.DataFrame) -> str:
    keys = ["network", "kernel", "n", "sparsity", "threads"]
    over_dense = sums[(sums["form"] == "sparse") & (sums["threads"] > 1)].set_index(keys)["speedup"]
    rows = []
    for pattern, own in scaling.groupby(keys, sort=False):
        network, kernel, n, sparsity, threads = own[keys].iloc[0]
        ratios = (own["alone_ms"] / own["together_ms"]).set_axis(own["rows"] + own["share"])
        row = {"sum of layers": f"{network} {KINDS[kernel]}", "threads": f"{threads}", "blocks": _name(n)}
        row |= {"sparsity": f"{100 * sparsity:g} %", "speed-up over dense": f"{over_dense[pattern]:.2f}"}  # type: ignore[index]
        for share in ("work", "rows"):
            for pattern_of_rows, name in (("ranked", "1xN"), ("uniform", "SUBP")):
                row[f"{name}, equal {share}"] = f"{ratios[pattern_of_rows + share]:.2f}"
        rows.append(row)
    return markdown_table(pd.DataFrame(rows)) if rows else "Not measured: this machine has one core."


def _reading(sums: pd.DataFrame, machine: str) -> str:
    losing = sums[(sums["form"] == "sparse") & (sums["speedup"] < 1) & (sums["threads"] == 1)]
    places = "; ".join(
        f"{network} {KINDS[kernel]} {_name(n)} up to {100 * own['sparsity'].max():g} %"
        for (network, kernel, n), own in losing.groupby(["network", "kernel", "n"], sort=False)  # type: ignore[misc]
    )
    return (
        "- Speed-up: the sum over all layers of the time of the best dense form of each layer (torch NCHW, channels_last, "
        "packed for oneDNN, matrix products, ONNX Runtime), over the sum of our kernel's; minima of interleaved rounds, "
        "one thread, batch 1, fp32, random blocks.\n"
        "- Share of peak: operations on kept weights per second, over the multiply-add peak measured beside them.\n"
        f"- Measured sparsities at which dense is faster: {places or 'none'}. Layer by layer, with the register tile and the "
        "instruction set that ran: kernel_layers.csv.\n"
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
    sparse = _plain(sums)
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
        axes.set_yticks([0.2, 0.5, 1, 2, 5, 10, 20], ["0.2×", "0.5×", "1×", "2×", "5×", "10×", "20×"])
        axes.minorticks_off()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].legend(loc="upper left")
    for axes in grid[max(0, len(panels) - 2) : len(panels)]:
        axes.set_xlabel("sparsity (%)")
        axes.tick_params(labelbottom=True)
    return figure
