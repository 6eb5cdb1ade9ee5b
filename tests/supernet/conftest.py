"""A context for methods that train supernets."""

from pathlib import Path

import pytest

from compressbench.method import Context
from tests.contexts.supernet import supernet_context


@pytest.fixture
def ctx(tmp_path: Path, data_root: Path) -> Context:
    return supernet_context(data_root, tmp_path / "compress")
