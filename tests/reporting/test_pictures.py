"""Tests of the figures that show images."""

from pathlib import Path
from types import SimpleNamespace

from compressbench.reporting.pictures import _class_grid


def test_synthetic_grid_has_a_row_per_class(report: SimpleNamespace) -> None:
    path = report.results / "desk/fashion_mnist/resnet8/intraq/w4a4/seed0/synthesize/synthetic.safetensors"
    grid, classes = _class_grid(path)  # type: ignore[misc]
    assert classes == list(range(10)) and grid.shape == (10 * 30, 6 * 30)
    assert grid.min() >= 0 and grid.max() <= 1


def test_damaged_synthetic_images_do_not_stop_the_report(tmp_path: Path) -> None:
    (tmp_path / "synthetic.safetensors").write_bytes(b"\x10\x00")
    assert _class_grid(tmp_path / "synthetic.safetensors") is None
