"""Stores that cannot be used, each with the sentence that says so."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from compressbench.tracking import store
from tests.tracking.projects import free_port


def closed_port(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    yield


def garbage(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    (root / store.DATABASE).write_bytes(b"this is no database " * 400)
    yield


def locked(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setattr(store, "PATIENCE", 1)
    with closing(sqlite3.connect(root / store.DATABASE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def other_schema(version: str) -> Callable[[Path, pytest.MonkeyPatch], Iterator[None]]:
    def change(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
        with closing(sqlite3.connect(root / store.DATABASE)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
        yield

    return change


# 0c779009ac13 is a version of MLflow 1; no version is called ffffffffffff yet
KINDS = {
    "closed port": closed_port, "garbage": garbage, "locked": locked, "older schema": other_schema("0c779009ac13"),
    "newer schema": other_schema("ffffffffffff"),
}  # fmt: skip


SENTENCES = {
    "closed port": "no MLflow server answers", "garbage": "is damaged", "locked": "database is locked",
    "older schema": "schema", "newer schema": "schema",
}  # fmt: skip
