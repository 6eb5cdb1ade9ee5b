"""What the page's table shows of a result, and what the axes of its figure can be."""

from collections.abc import Callable
from typing import Any, NamedTuple

from compressbench.reporting.columns import STORED, change
from compressbench.reporting.groups import is_number
from compressbench.reporting.text import DASH, number, quantity


class PageColumn(NamedTuple):
    """One column of the page's table.

    key: the column of the results that it is sorted by.
    text: a row of the results in words.
    help: a sentence for the heading.
    """

    key: str
    title: str
    text: Callable[[Any], str]
    help: str
    numeric: bool = True


class Axis(NamedTuple):
    """What a point's position can mean.

    key: a column of the results. better: the direction of better networks, `low` or `high`.
    low, high: the columns with the ends of its interval, or nothing.
    """

    key: str
    title: str
    better: str
    logarithmic: bool = True
    low: str = ""
    high: str = ""


def _seconds(row: Any) -> str:
    return number(row.seconds, 2 if row.seconds < 1 else 1 if row.seconds < 10 else 0)


def _speedup(row: Any) -> str:
    if not is_number(row.best_speedup):
        return DASH
    return f"{number(row.best_speedup)} [{number(row.best_low)}, {number(row.best_high)}]"


def _quality(row: Any) -> str:
    half = (row.quality_high - row.quality_low) / 2
    return f"{number(row.quality)}{f' ± {number(half)}' if is_number(half) else ''} {row.measure}"


def _paper(row: Any) -> str:
    return f"{number(row.paper_ms)} ({row.paper_network})" if is_number(row.paper_ms) else DASH


def _plain(key: str, title: str, help: str) -> PageColumn:
    return PageColumn(key, title, lambda row: str(getattr(row, key)), help, numeric=False)


COLUMNS = (
    _plain("title", "Method", "Bold: methods; plain: baselines. Opens the page of the method."),
    _plain("label", "Setting", "The strength of compression, and the variant where there are several."),
    PageColumn(
        "quality",
        "Quality",
        _quality,
        "Mean over the seeds, with half of the 95 % t-interval.",
    ),
    PageColumn("n", "Seeds", lambda r: str(r.n), "How many seeds the quality is the mean of."),
    PageColumn("change", "vs dense", change, "Paired by seed with the dense network; in points, or dB."),
    PageColumn(
        "stored_bytes", "Stored", STORED.text, "Bytes of the stored network, compressed representation included."
    ),
    PageColumn("macs", "MACs", lambda r: quantity(r.macs), "Multiply-accumulates for one input."),
    PageColumn(
        "bit_operations", "Bit-operations", lambda r: quantity(r.bit_operations), "MACs times the bits of both."
    ),
    PageColumn("fastest_ms", "Latency, ms", lambda r: number(r.fastest_ms, 3), "One image, one thread."),
    PageColumn(
        "best_speedup",
        "Speed-up",
        _speedup,
        "Over the dense network, each on the runtime where it is fastest; in brackets the 95 % interval.",
    ),
    PageColumn("paper_ms", "ms, paper's size", _paper, "On a network of the paper at full size, one thread."),
    PageColumn(
        "seconds", "Seconds", _seconds, "Wall time of compression on one core, without the shared dense network."
    ),
    _plain("fastest_runtime", "Runtime", "Where the network is fastest."),
    _plain("published", "Published", "Model, data set: dense → compressed, as the paper has it."),
    _plain("kind", "Family", "What is done to the network."),
    _plain("model", "Network", "The small network that all methods of a comparison share."),
    _plain("dataset", "Data", "The data set."),
    _plain("task", "Task", "What the network does."),
)

AXES = (
    Axis("quality", "quality", "high", False, "quality_low", "quality_high"),
    Axis("stored_bytes", "stored bytes", "low"),
    Axis("macs", "MACs", "low"),
    Axis("bit_operations", "bit-operations", "low"),
    Axis("fastest_ms", "latency (ms)", "low"),
    Axis("best_speedup", "speed-up over dense", "high", True, "best_low", "best_high"),
    Axis("paper_ms", "ms at the paper's size", "low"),
    Axis("seconds", "seconds of compression", "low"),
    Axis("change", "quality, change against dense", "high", False, "change_low", "change_high"),
)
