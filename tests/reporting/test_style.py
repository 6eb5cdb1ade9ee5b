"""Tests of what all figures share: colours, legends, resolution."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from compressbench.reporting import style
from compressbench.reporting.groups import Group, group_runs


def test_pictures_have_the_resolution_of_print(report: SimpleNamespace) -> None:
    for path in (report.out / "figures").glob("*.png"):
        picture = Image.open(path)
        assert picture.width == 1360 and round(picture.info["dpi"][0]) == 200


@pytest.fixture
def groups(report: SimpleNamespace) -> list[Group]:
    return group_runs(report.runs, report.declarations)


def test_baselines_are_grey_and_methods_of_a_group_have_colours_of_their_own(groups: list[Group]) -> None:
    for group in groups:
        palette = style.colors(group)
        own = {
            palette[group.series(m, s)] for m in group.methods if not group.is_baseline(m) for s in group.settings[m]
        }
        grey = {palette[group.series(m, s)] for m in group.methods if group.is_baseline(m) for s in group.settings[m]}
        assert grey <= {style.GREY} and style.GREY not in own


def test_no_two_series_of_methods_have_the_same_colour_and_dashes(groups: list[Group]) -> None:
    for group in groups:
        palette, dashes = style.colors(group), style.dashes(group)
        assert palette.keys() == dashes.keys()
        own = [name for name, color in palette.items() if color != style.GREY]
        assert len({(palette[name], str(dashes[name])) for name in own}) == len(own)


def test_levels_have_markers_of_their_own_while_there_are_enough() -> None:
    few = style.level_markers(list("abc"))
    assert len(set(few.values())) == 3
    many = style.level_markers([str(i) for i in range(len(style.MARKERS) + 1)])
    assert set(many.values()) == {style.MARKERS[0]}


def test_a_figure_is_saved_to_the_same_bytes(tmp_path: Path) -> None:
    with style.styled():
        files = [style.save(style.placeholder("Title", "pair", "no data"), tmp_path / name, "figure") for name in "ab"]
    assert [file.suffix for file in files[0]] == [".png", ".svg"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))
