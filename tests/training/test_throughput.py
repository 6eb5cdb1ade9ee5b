"""Images per second: what they are, where they stand, and that nothing that is compared has them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench.stages.runner import History
from compressbench.tracking.results import Result
from compressbench.training import Hook, State, fit, throughput
from compressbench.training.throughput import Throughput
from tests.training.runs import batch, cross_entropy


def test_images_of_the_steps_over_the_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 images in each of 3 steps of 2 seconds; an hour of validation does not count."""
    clock, found = [100.0], []
    monkeypatch.setattr(throughput, "_now", lambda: clock[0])

    class Slow(Hook):
        def on_step_start(self, state: State) -> None:
            clock[0] += 2

    def validate(model: nn.Module) -> dict[str, float]:
        clock[0] += 3600
        return {}

    model = nn.Linear(6, 3)
    fit(
        model, batch, cross_entropy, [torch.optim.SGD(model.parameters(), lr=0.1)], epochs=2, steps_per_epoch=3, seed=0,
        hooks=[Slow(), Throughput(found.append)], validate=validate,
    )  # fmt: skip
    assert found == [8.0, 8.0]


class Seen:
    """In the place of a tracker."""

    def __init__(self) -> None:
        self.metrics_by_step: dict[int, dict[str, float]] = {}

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        self.metrics_by_step[step] = values


def test_images_per_second_are_logged_and_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    """The first epoch comes from a checkpoint, and the third from another training of the stage."""
    tracker = Seen()
    history = History(tmp_path / "history.csv", tracker)  # type: ignore[arg-type]
    history.epoch(0, 2, {"loss": 2.0})
    history.throughput(250.5)
    history.epoch(1, 2, {"loss": 1.0})
    history.throughput(99.0)
    history.epoch(0, 1, {"loss": 0.5, "top1": 90.0})
    assert history.bar is not None and "images_per_second=99" in history.bar.postfix
    assert (tmp_path / "history.csv").read_text(encoding="utf-8") == "epoch,loss,top1\n0,2.0,\n1,1.0,\n0,0.5,90.0\n"
    written = (tmp_path / "throughput.csv").read_text(encoding="utf-8")
    assert written == "row,images_per_second\n1,250.5\n2,99.0\n"
    assert tracker.metrics_by_step == {
        0: {"loss": 2.0},
        1: {"loss": 1.0, "images_per_second": 250.5},
        2: {"loss": 0.5, "top1": 90.0, "images_per_second": 99.0},
    }
    rows = Result(tmp_path, tmp_path).history
    assert [row.get("images_per_second") for row in rows] == [None, 250.5, 99.0]
    assert [row["loss"] for row in rows] == [2.0, 1.0, 0.5]
