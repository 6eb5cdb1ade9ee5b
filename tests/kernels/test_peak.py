"""The peak that kernels are measured against."""

import time

import pytest

from compressbench.kernels import native
from compressbench.kernels.peak import peak_call


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_its_operations_grow_with_the_iterations_and_take_time() -> None:
    short, few = peak_call(1)
    long, many = peak_call(2_000_000)
    assert many == 2_000_000 * few
    assert few in (2 * 12 * lanes for lanes in (4, 8, 16))
    before = time.perf_counter()
    short()
    middle = time.perf_counter()
    long()
    assert time.perf_counter() - middle > 10 * (middle - before)
    lanes = few / (2 * 12)
    assert short() == lanes * sum(0.5 * start + 0.5 for start in range(12))
