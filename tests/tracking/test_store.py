"""Tests of the store: its place, its experiments, and stores that cannot be used."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from compressbench import tracking
from compressbench.errors import UserError
from compressbench.tracking import store
from tests.conftest import Command
from tests.tracking.projects import EXPERIMENT, free_port, logged, make_project, write


def test_a_deleted_experiment_is_restored(optg: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = store.connect(optg)
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    write(optg, "pretrain")
    assert tracking.synchronise(optg) == (1, 4, 4)
    assert "it is restored" in caplog.text
    assert client.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"
    assert len(logged(optg)) == 5


def test_a_project_that_moved_takes_its_artifacts_along(optg: Path, tmp_path: Path) -> None:
    new = tmp_path / "elsewhere"
    shutil.move(optg, new)
    write(new, "pretrain")
    tracking.synchronise(new)
    assert not optg.exists()
    client = store.connect(new)
    location = (new / store.ARTIFACTS).as_uri()
    assert client.get_experiment_by_name(EXPERIMENT).artifact_location == location
    for run in logged(new):
        assert run.info.artifact_uri.startswith(location)
        assert client.list_artifacts(run.info.run_id)


@pytest.mark.parametrize("name", ["what?", "a#b", "my project é", "100%20", "a?b#c=1&d e"])
def test_the_store_lies_in_the_project_whatever_its_folder_is_called(
    name: str, cli: Command, tmp_path: Path, empty_store: Path
) -> None:
    root = make_project(tmp_path / name, empty_store)
    write(root, "compress")
    process = cli(root, "tracking", env={"MLFLOW_TRACKING_URI": ""})
    assert process.returncode == 0, process.stderr
    assert "1 results logged; it has 1 of 1" in process.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with closing(sqlite3.connect((root / store.DATABASE).as_uri() + "?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    assert list(root.glob("mlartifacts/*/artifacts/model.safetensors"))
    assert {path.name for path in root.iterdir()} == {
        "methods", "config", "compressbench", "data.dvc", "results", "mlflow.db", "mlartifacts",
    }  # fmt: skip


def test_an_unusable_store_is_a_sentence_within_seconds(unusable: tuple[Path, str]) -> None:
    root, sentence = unusable
    start = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        tracking.synchronise(root)
    assert time.monotonic() - start < 10


def test_by_hand_it_is_an_error_and_in_the_workflow_a_warning(root: Path, cli: Command) -> None:
    nobody = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    process = cli(root, "tracking", env=nobody)
    assert process.returncode == 2 and process.stderr.splitlines()[-1].startswith("error: no MLflow server answers")
    process = cli(root, "tracking", "--optional", env=nobody)
    assert process.returncode == 0 and "no MLflow server answers" in process.stderr
