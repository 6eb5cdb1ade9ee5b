"""Tests of the names, tags, metrics and times that MLflow gets from result files."""

import json
import os
from pathlib import Path

import pytest

from compressbench import tracking
from compressbench.errors import UserError
from compressbench.tracking import results
from tests.tracking.projects import LOSSES, TAGS, logged, of_kind, write


def test_older_results_without_times_end_when_they_were_written(root: Path) -> None:
    folder = write(root, "compress", started=None, ended=None)
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del content["started"], content["ended"]
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    os.utime(folder / "run.json", (1_700_000_000, 1_700_000_000))
    tracking.synchronise(root)
    (stage,) = of_kind(logged(root), "stage")
    assert (stage.info.start_time, stage.info.end_time) == (1_699_999_993_000, 1_700_000_000_000)


def test_nested_keys_are_joined_by_dots() -> None:
    assert results.flat({"pair": {"patch": 8, "recipe": {"lr": 0.1}}, "bits": 4}) == {
        "pair.patch": "8", "pair.recipe.lr": "0.1", "bits": "4",
    }  # fmt: skip


def test_only_finite_numbers_are_metrics() -> None:
    values = {"loss": 1, "gap": float("nan"), "rate": float("inf"), "name": "x", "converged": True}
    assert results.finite(values) == {"loss": 1.0}


def test_numbers_of_an_operating_point_have_its_name_in_front(root: Path) -> None:
    folder = write(root, "evaluate")
    points = {
        name: {"label": name, "quality": {"top1": top1}, "macs": macs}
        for name, top1, macs in (("t30", 70.0, 5), ("t90", 80.0, 9))
    }
    content = {"quality": {"top1": 80.0}, "params": 100, "stored_bytes": 400, "points": points}
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    metrics = results.final_metrics(folder)
    assert {"top1": 80.0, "params": 100, "t30.top1": 70.0, "t30.macs": 5, "t90.macs": 9}.items() <= metrics.items()
    assert metrics["wall_seconds"] == 7.0


@pytest.mark.parametrize(("file", "content"), [("run.json", "{}"), ("history.csv", "epoch,loss\n0,much\n")])
def test_a_damaged_file_is_named_with_what_to_do(root: Path, file: str, content: str) -> None:
    folder = write(root, "compress")
    (folder / file).write_text(content, encoding="utf-8")
    result = results.Result(root, folder)
    with pytest.raises(UserError, match=rf"compress/{file} is .*delete .* and run its stage again"):
        _ = result.content, result.history


def test_a_method_that_no_longer_exists_is_called_as_its_folder(root: Path) -> None:
    tags = TAGS | {"stage": "compress", "method": "removed", "setting": "p1"}
    assert results.run_name(root, tags) == "removed p1 · resnet_mini · seed 0"


def test_images_per_second_are_curves_where_they_were_measured(root: Path) -> None:
    """Of the second and the third epoch: the first was trained before a kill. history.csv is the same every time."""
    folder = write(root, "compress")
    (folder / "throughput.csv").write_text("row,images_per_second\n1,250.5\n2,260\n", encoding="utf-8")
    rows = results.Result(root, folder).history
    assert [row.get("images_per_second") for row in rows] == [None, 250.5, 260.0]
    assert [row["loss"] for row in rows] == list(LOSSES)


def test_a_result_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, "evaluate")
    (folder / "metrics.json").write_text('{"quality": [81.25]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.json is damaged \(quality: .*\); delete it and run its stage again"):
        results.final_metrics(folder)
