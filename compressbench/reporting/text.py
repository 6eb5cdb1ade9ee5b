"""Numbers and tables as text."""

import math
from collections.abc import Sequence

import pandas as pd

DASH = "–"
NOTHING = "No results yet."


def number(value: float, digits: int = 2, sign: bool = False) -> str:
    """A rounded number, or a dash."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(mean: float, low: float, high: float, n: int, digits: int = 2, sign: bool = False) -> str:
    """`90.10 ± 0.52 (n=2)`; `90.10 (n=1)` when there is no interval."""
    if n < 2:
        return f"{number(mean, digits, sign)} (n=1)" if n else DASH
    return f"{number(mean, digits, sign)} ± {number((high - low) / 2, digits)} (n={n})"


def quantity(value: float) -> str:
    """Three significant digits with a decimal prefix: 74.5 k, 1.23 M."""
    if value is None or math.isnan(value):
        return DASH
    if abs(value) < 1e3:
        return f"{value:.0f}"
    rounded = float(f"{value:.3g}")
    factor, prefix = next((f, p) for f, p in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(rounded) >= f)
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded) / factor)))
    return f"{rounded / factor:.{decimals}f} {prefix}"


def exact(value: float) -> str:
    """A number as a person would copy it: 40,813,184 or 7.688."""
    if value is None or math.isnan(value):
        return DASH
    if float(value).is_integer():
        return f"{int(value):,}".replace("-", "−")
    return f"{value:,.6g}".replace("-", "−")


def listed(words: Sequence[object]) -> str:
    """a, b and c."""
    texts = [str(word) for word in words]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def aligned_table(table: pd.DataFrame) -> str:
    """A Markdown table of texts for a terminal: cells of a column are equally wide, all but the first right-aligned."""
    width = [max(map(len, [str(name), *table[name]])) for name in table]
    sides = [str.ljust] + [str.rjust] * (len(width) - 1)
    rule = ["-" * width[0], *("-" * (w - 1) + ":" for w in width[1:])]
    rows = [list(map(str, table.columns)), rule, *table.to_numpy().tolist()]
    return "\n".join(
        "| " + " | ".join(side(cell, w) for cell, side, w in zip(row, sides, width, strict=True)) + " |" for row in rows
    )


def markdown_table(table: pd.DataFrame, numeric: Sequence[str] = ()) -> str:
    """A Markdown table of texts; the columns named in `numeric` are right-aligned."""
    lines = ["| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "|".join("---:" if c in numeric else "---" for c in table.columns) + "|")
    lines += [
        "| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |" for row in table.itertuples(index=False)
    ]
    return "\n".join(lines)
