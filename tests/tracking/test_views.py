"""Tests of what MLflow's pages show first."""

import json
from pathlib import Path

from compressbench import tracking
from compressbench.tracking import store, views
from tests.tracking.projects import EXPERIMENT


def test_an_experiment_opens_on_training_runs_with_a_view_of_the_results(root: Path) -> None:
    tracking.prepare(root, "smoke")
    found = store.connect(root).get_experiment_by_name(EXPERIMENT)
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    state = json.loads(found.tags[f"mlflow.sharedViewState.{views.VIEW}"])
    assert state["orderByKey"] == "metrics.`quality`" and not state["orderByAsc"]
    assert f"viewStateShareKey={views.VIEW}" in views.page(found.experiment_id)
    assert found.tags["mlflow.note.content"].count(views.page(found.experiment_id)[1:]) == 2
