"""The MLflow store: where it is, whether it can be used, and the experiment of a scale in it.

MLflow can take minutes to notice an unusable store (it repeats requests for more than four); this takes seconds.
"""

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from compressbench.errors import UserError
from compressbench.tracking.views import experiment_tags

log = logging.getLogger(__name__)
PATIENCE = 5  # seconds for a server to answer, or for another process to let go of a database
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What MLflow reads when it is imported or used; what the user has set goes first.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(2 * PATIENCE),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Unusable(UserError):
    """The store cannot be used now; the sentence says why, and what to do."""


def uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the SQLite file mlflow.db of the project.

    The file is named relative to the working directory, which is the project's folder: neither SQLAlchemy nor MLflow can
    read a `?` in a path, quoted or not.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{os.path.relpath(root / DATABASE)}"


def is_own(root: Path) -> bool:
    """Whether the store is the project's own file, whose artifacts lie beside it."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


@contextmanager
def guarded(root: Path) -> Iterator[None]:
    """Turn whatever MLflow raises in the block (its own errors, SQLAlchemy's, those of requests, of files) into `Unusable`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        answers(root)  # has a sentence of its own for an unreachable server and for a damaged or locked file
        raise Unusable(f"MLflow's store {uri(root)} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    first = str(error).strip().split("\n")[0] or type(error).__name__
    return first if len(first) <= 400 else f"{first[:400]}…"


def connect(root: Path, create: bool = True) -> Any:
    """A client of the store.

    Args:
        create: whether to make the project's own database where there is none (7 s; first connections race on its schema).

    Raises:
        Unusable: within seconds, when nothing answers, or what answers cannot be used.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    with guarded(root):
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs what it raises, as a traceback
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        answers(root, create)
        client = MlflowClient(tracking_uri=uri(root))
        client.search_experiments(max_results=1)  # the first question opens the database and compares its schema
        return client


def answers(root: Path, create: bool = True) -> None:
    """Raise `Unusable` unless the server accepts a connection, or the database file can be locked. Loads no MLflow."""
    import requests
    from sqlalchemy import make_url

    address = uri(root)
    if address.startswith(("http://", "https://")):
        try:
            requests.get(address, timeout=PATIENCE, allow_redirects=False)
        except requests.RequestException:
            raise Unusable(
                f"no MLflow server answers at {address}; start it, or unset MLFLOW_TRACKING_URI, then run "
                "`compressbench tracking`."
            ) from None
    elif address.startswith("sqlite"):
        _probe(Path(make_url(address).database or ""), create)
    elif address.split("+")[0].split(":")[0] in PORTS:
        server = make_url(address)
        port = server.port or PORTS[server.get_backend_name()]
        try:
            socket.create_connection((server.host or "localhost", port), PATIENCE).close()
        except OSError as error:
            raise Unusable(f"no database answers at {server.host}:{port} ({error.strerror or error}).") from None


def _probe(file: Path, create: bool) -> None:
    """Whether an SQLite file is one, and can be written within PATIENCE."""
    if not file.exists():
        if not create:
            raise Unusable(f"there is no {file}; `compressbench tracking` creates it.")
        return
    try:
        with closing(sqlite3.connect(file, timeout=PATIENCE)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.OperationalError as error:
        raise Unusable(
            f"MLflow's store {file} cannot be written ({error}); close what has it open or make it writable, then run "
            "`compressbench tracking`."
        ) from None
    except sqlite3.DatabaseError as error:
        raise Unusable(
            f"MLflow's store {file} is damaged ({error}); move it away: `compressbench tracking` makes a new one from the "
            "results."
        ) from None


def write_quickly() -> None:
    """Let this process not wait for the disk after every entry of an SQLite store: it can be made again from the results.

    A process that is killed does no harm, only the end of the whole machine.
    """
    from sqlalchemy import Engine, event

    if not event.contains(Engine, "connect", _without_waiting):
        event.listen(Engine, "connect", _without_waiting)


def _without_waiting(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def experiment_of(root: Path, client: Any, scale: str) -> str:
    """The id of the scale's experiment: created, restored when it was deleted, moved along with the project."""
    name = f"{os.environ.get('MLFLOW_EXPERIMENT_NAME', 'compressbench')} {scale}"
    location = (root.resolve() / ARTIFACTS).as_uri() if is_own(root) else None
    found = client.get_experiment_by_name(name)
    if found is None:
        identifier = client.create_experiment(name, artifact_location=location)
        known = {}
    else:
        identifier, known = found.experiment_id, found.tags
        if found.lifecycle_stage == "deleted":
            log.warning("the experiment %r had been deleted in MLflow; it is restored", name)
            client.restore_experiment(identifier)
        if location and found.artifact_location != location:
            _relocate(root / DATABASE, identifier, found.artifact_location, location)
    for key, value in experiment_tags(identifier, scale).items():
        if known.get(key) != value:
            client.set_experiment_tag(identifier, key, value)
    return str(identifier)


def _relocate(file: Path, experiment: str, old: str, new: str) -> None:
    """Let the artifacts of an experiment be where the project's folder is now. MLflow has no call for this."""
    with closing(sqlite3.connect(file, timeout=PATIENCE)) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment))
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            moved = f"{column} = ? || substr({column}, ?)"
            below = f"experiment_id = ? AND substr({column}, 1, ?) = ?"
            values = (new, len(old) + 1, experiment, len(old) + 1, f"{old}/")
            database.execute(f"UPDATE {table} SET {moved} WHERE {below}", values)
