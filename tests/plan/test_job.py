"""Tests of a job: its name, the files that it reads and leaves, and its digest."""

from dataclasses import replace
from pathlib import Path

import pytest

from compressbench.config import Latency
from tests.plan.jobs import COMPRESS, PRETRAIN, RUN, WORKLOAD


def test_stages_have_folders_of_their_own_and_methods_share_the_dense_model() -> None:
    assert COMPRESS.folder == Path("results/smoke/digits/plain_mini/optg/p95/seed3/compress")
    assert PRETRAIN.folder == Path("results/smoke/digits/plain_mini/pretrain/seed3")
    assert RUN.folder("pretrain") == replace(RUN, method="snip").folder("pretrain")


def test_a_job_reads_the_results_of_its_inputs() -> None:
    assert COMPRESS.paths == [PRETRAIN.folder / "model.safetensors", PRETRAIN.folder / "model.json"]
    assert PRETRAIN.paths == []


@pytest.mark.parametrize(
    ("stage", "results"),
    [
        ("synthesize", ("synthetic.safetensors",)),
        ("finetune", ("model.safetensors", "model.json")),
        ("evaluate", ("metrics.json",)),
        ("latency", ("latency.json",)),
    ],
)
def test_every_stage_leaves_what_later_ones_read(stage: str, results: tuple[str, ...]) -> None:
    assert replace(COMPRESS, stage=stage).results == results


def test_the_dense_model_is_called_alike_for_all_methods() -> None:
    assert PRETRAIN.tags == {
        "scale": "smoke", "dataset": "digits", "model": "plain_mini", "method": "pretrain", "setting": "dense",
        "seed": "3", "stage": "pretrain",
    }  # fmt: skip
    assert (COMPRESS.tags["method"], COMPRESS.tags["setting"]) == ("optg", "p95")


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "finetune"},
        {"device": "cuda"},
        {"data_hash": "2"},
        {"recalibrated": True},
        {"latency": Latency()},
        {"files": {"table.json": "1"}},
        {"run": replace(RUN, seed=4)},
        {"run": replace(RUN, method="snip")},
        {"workload": WORKLOAD.model_copy(update={"images": 100})},
        {"inputs": {"dense": replace(PRETRAIN, data_hash="2")}},
    ],
    ids=str,
)
def test_whatever_a_job_reads_changes_its_digest(changes: dict) -> None:
    assert replace(COMPRESS, **changes).digest != COMPRESS.digest


@pytest.mark.parametrize("changes", [{"scale": "desk"}, {"model": "other"}, {"setting": "renamed"}], ids=str)
def test_a_name_that_nothing_is_computed_from_does_not(changes: dict[str, str]) -> None:
    assert replace(COMPRESS, run=replace(RUN, **changes)).digest == COMPRESS.digest
