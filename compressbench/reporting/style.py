"""How every figure looks, and how it is saved so that equal results give equal files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, cast

import matplotlib
from matplotlib.figure import Figure

from compressbench.files import in_memory, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from compressbench.reporting.groups import Group

# Okabe and Ito's palette, distinguishable with every common colour blindness, less yellow (too pale on white) and black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"
FAINT = "#c9c9c9"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
WIDTH = 6.8  # inches: the text width of a page
DPI = 200
HEADING = 0.5  # inches of a figure's title and subtitle
LEGEND_LENGTH = 90  # characters of a legend's row, five for every marker
NOTE_LENGTH = 120  # characters of a reading aid's line at that width
PARAMETERS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "compressbench",
    "svg.fonttype": "path",
    "path.simplify": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """The suite's matplotlib settings, for drawing and for saving."""
    with matplotlib.rc_context(PARAMETERS):
        yield


def new_figure(height: float, title: str, subtitle: str, note: str = "", width: float = WIDTH) -> Figure:
    """An empty figure with a heading on top and a reading aid (paragraphs separated by newlines) below."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    _head(figure, f"{title}\n ")  # the empty line is the subtitle's place
    figure.text(0.012, 1 - 0.28 / height, subtitle, ha="left", va="top", fontsize=9.5, color="#555555")
    if note:
        text = "\n".join(fill(paragraph, NOTE_LENGTH) for paragraph in note.split("\n"))
        figure.supxlabel(text, x=0.012, ha="left", fontsize=7.5, color="#555555")
    return figure


def _head(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.012, ha="left", fontsize=11, fontweight="bold")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """`name`.png and `name`.svg, without dates or versions inside."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    write_bytes(
        paths[0], in_memory(lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}))
    )
    no_date = {"Date": None, "Creator": None}
    write_bytes(paths[1], in_memory(lambda file: figure.savefig(file, format="svg", metadata=no_date)))
    return paths


def placeholder(title: str, subtitle: str, reason: str) -> Figure:
    """The picture of a figure that has no data yet: it says what is missing."""
    figure = new_figure(2.0, title, subtitle)
    figure.text(0.5, 0.42, f"No picture yet: {reason}", ha="center", va="center", color=GREY, fontsize=10)
    return figure


def colors(group: "Group") -> dict[str, str]:
    """Series -> colour; baselines are grey."""
    own, grey = _series(group)
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(own)} | dict.fromkeys(grey, GREY)


def method_colors(group: "Group") -> dict[str, str]:
    """Method -> the colour of its first series, for figures with more series than colours."""
    palette = colors(group)
    return {method: palette[group.series(method, group.settings[method][0])] for method in group.methods}


def dashes(group: "Group") -> dict[str, str]:
    """Series -> line style: it distinguishes the grey baselines, and methods when the colours are used up."""
    own, grey = _series(group)
    styles = {name: DASHES[i // len(PALETTE) % len(DASHES)] for i, name in enumerate(own)}
    return styles | {name: DASHES[i % len(DASHES)] for i, name in enumerate(grey)}


def _series(group: "Group") -> tuple[list[str], list[str]]:
    """(series of methods, series of baselines) in a fixed order: what every method is before its variants; dense first."""
    names: tuple[dict[str, None], dict[str, None]] = {}, {}
    ordered = sorted(group.methods, key=lambda m: not group.is_dense(m))
    for settings in (slice(1), slice(1, None)):
        for method in ordered:
            own = not group.is_baseline(method) and not group.is_dense(method)
            names[0 if own else 1].update(
                dict.fromkeys(group.series(method, s) for s in group.settings[method][settings])
            )
    return list(names[0]), list(names[1])


def level_markers(levels: Sequence[str]) -> dict[str, str]:
    """A marker per strength of compression; the same one where there are more strengths than shapes."""
    few = len(levels) <= len(MARKERS)
    return {level: MARKERS[i] if few else MARKERS[0] for i, level in enumerate(levels)}


def marker_style(color: str, baseline: bool) -> dict[str, Any]:
    """Filled for methods, hollow for baselines."""
    return {
        "color": color,
        "markerfacecolor": "white" if baseline else color,
        "markeredgecolor": color,
        "markeredgewidth": 1.2,
    }


def level_legend(axes: "Axes", markers: dict[str, str], panels: bool = False) -> None:
    """What the marker shapes mean (words -> marker): above the axes, or above all `panels`; none if all are alike."""
    if len(markers) > len(MARKERS):
        return
    handles = [
        axes.plot([], [], linestyle="none", marker=m, color="#333333", markersize=5)[0] for m in markers.values()
    ]
    rows = -(-sum(len(words) + 5 for words in markers) // LEGEND_LENGTH)
    columns = -(-len(handles) // max(rows, 1))
    form: dict[str, Any] = {"ncols": columns, "handletextpad": 0.2, "columnspacing": 1.2, "borderaxespad": 0.1}
    if panels:
        figure = cast(Figure, axes.figure)
        place = (0.99, 1 - HEADING / figure.get_figheight())
        _head(figure, figure.get_suptitle() + "\n " * rows)
        figure.legend(handles, list(markers), loc="upper right", bbox_to_anchor=place, **form)
    else:
        axes.legend(handles, list(markers), loc="lower right", bbox_to_anchor=(1.0, 1.0), **form)
