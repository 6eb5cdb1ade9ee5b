"""Rows of a table of single seeds."""

import pandas as pd

from compressbench.reporting.seeds import KEY

OPTG = "fashion_mnist/resnet_mini/optg/p98"


QUALITIES = {0: 84.1, 1: 84.5, 2: 84.9}


def rows(seed: int, method: str = "optg", quality: float | None = None, kept: float = 1490.0) -> pd.DataFrame:
    """Three numbers of a run."""
    numbers = {
        "quality.top1": QUALITIES.get(seed, 84.0) if quality is None else quality,
        "macs": 4_089_184.0,
        "compress.kept_l1": kept,
    }
    run = ["fashion_mnist", "resnet_mini", method, "p98", "", seed]
    return pd.DataFrame([[*run, name, value] for name, value in numbers.items()], columns=[*KEY, "value"])
