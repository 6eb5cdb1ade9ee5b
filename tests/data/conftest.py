"""Data that several tests look at."""

from pathlib import Path

import pytest

from compressbench import data
from compressbench.data import SuperResolutionData


@pytest.fixture(scope="module")
def photographs(data_root: Path) -> SuperResolutionData:
    return data.load("photographs", data_root / "data")  # type: ignore[return-value]
