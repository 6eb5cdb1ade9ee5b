"""What a training leaves by the epoch: metrics that are the same every time, and beside them how fast it was."""

from pathlib import Path

from compressbench.stages.runner import History


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
