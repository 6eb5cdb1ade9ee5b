"""Where data comes from, without a network."""

from pathlib import Path

import pytest

from compressbench.data import sources, versioning
from compressbench.errors import UserError


def test_what_the_wheels_ship_is_what_is_pinned(tmp_path):
    root = Path(__file__).parents[2]
    pinned = versioning.pinned_files(root)
    for name in ("digits", "photographs"):
        (tmp_path / name).mkdir()
        sources.SOURCES[name](tmp_path / name)
    fetched = versioning.hash_files(tmp_path)
    assert fetched == {name: md5 for name, md5 in pinned.items() if not name.startswith("fashion_mnist")}


def test_only_missing_data_sets_are_fetched(tmp_path, monkeypatch):
    (tmp_path / "data/old").mkdir(parents=True)
    made = {name: lambda folder: (folder / "file").touch() for name in ("old", "new")}
    monkeypatch.setattr(sources, "SOURCES", made)
    assert sources.fetch(tmp_path) == ["new"]
    assert (tmp_path / "data/new/file").exists() and not (tmp_path / "data/old/file").exists()


def test_unwritable_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", {"new": lambda folder: None})
    (tmp_path / "data").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(UserError, match=r"folder .*data: "):
        sources.fetch(tmp_path)
