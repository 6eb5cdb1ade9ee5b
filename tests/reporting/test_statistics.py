"""Tests of means and intervals, against values computed by hand."""

import math

import pytest

from compressbench.reporting.statistics import t_interval


def test_t_interval_by_hand() -> None:
    """Two values: s = |a - b| / √2, so the half width is t(0.975, 1) · |a - b| / 2 = 12.7062 · |a - b| / 2."""
    pair = t_interval([90.0, 91.0])
    assert pair.mean == 90.5 and pair.n == 2
    assert pair.half == pytest.approx(12.706204736 / 2)
    three = t_interval([1.0, 2.0, 3.0])  # s = 1, t(0.975, 2) = 4.302652730
    assert three.half == pytest.approx(4.302652730 / math.sqrt(3))
