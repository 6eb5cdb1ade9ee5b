from collections.abc import Iterator
from pathlib import Path

import pytest

from compressbench import tracking
from compressbench.tracking import store
from compressbench.tracking.gate import VARIABLE
from tests.tracking.projects import make_project, write
from tests.tracking.unusable import KINDS, SENTENCES


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema: making it takes seconds."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store.connect(root)
    return root / store.DATABASE


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a store and without results."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    return make_project(root, empty_store)


@pytest.fixture
def optg(root: Path) -> Path:
    for stage in ("compress", "evaluate", "latency"):
        write(root, stage)
    tracking.synchronise(root)
    return root


@pytest.fixture(params=KINDS)
def unusable(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    for _ in KINDS[request.param](root, monkeypatch):
        yield root, SENTENCES[request.param]
