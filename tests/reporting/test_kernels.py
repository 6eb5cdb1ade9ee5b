"""Tests of the page of the kernel benchmark."""

import pytest

from compressbench.reporting.kernels import break_even


@pytest.mark.parametrize(
    ("points", "sparsity"),
    [([(0.5, 2.0), (0.0, 0.5)], 1 / 6), ([(0.0, 1.1), (0.5, 2.0)], 0.0), ([(0.0, 0.4), (0.5, 0.9)], float("nan"))],
)
def test_break_even_lies_between_the_measured_sparsities(points: list[tuple[float, float]], sparsity: float) -> None:
    assert break_even(points) == pytest.approx(sparsity, nan_ok=True)
