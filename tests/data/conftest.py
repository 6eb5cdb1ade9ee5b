"""Data that several tests look at."""

from pathlib import Path

import pytest

from compressbench import data
from compressbench.data import SuperResolutionData
from tests.contexts.folders import write_birds


@pytest.fixture(scope="module")
def photographs(data_root: Path) -> SuperResolutionData:
    return data.load("photographs", data_root / "data")  # type: ignore[return-value]


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_birds(tmp_path_factory.mktemp("external") / "birds")
