"""Means with their uncertainty."""

import math
from collections.abc import Iterable
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean over `n` seeds and its 95 % t-interval; `low` and `high` are NaN with fewer than two values."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def t_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's t-interval of a mean: m ± t((1 + level) / 2, n - 1) · s / √n. NaN values are left out."""
    from scipy.special import stdtrit

    known = [float(v) for v in values if not math.isnan(v)]
    n = len(known)
    mean = math.fsum(known) / n if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)
