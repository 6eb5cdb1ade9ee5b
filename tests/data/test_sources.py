"""Where data comes from, without a network."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

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


def test_only_what_is_asked_for_is_fetched_downloaded_and_checked(tmp_path, monkeypatch):
    made = {name: lambda folder: (folder / "file").write_text("1", encoding="utf-8") for name in ("one", "two")}
    monkeypatch.setattr(sources, "SOURCES", made)
    downloads = []
    entry = SimpleNamespace(download=downloads.append, hash="md5")
    monkeypatch.setattr(sources, "DOWNLOADS", {"far": entry})
    files = {"one/file": "c4ca4238a0b923820dcc509a6f75849b", "two/file": "9" * 32}  # the second is pinned otherwise
    pin = {"outs": [{"md5": versioning.folder_hash(files)}], "meta": {"files": files}}
    (tmp_path / "data.dvc").write_text(yaml.safe_dump(pin), encoding="utf-8")
    monkeypatch.setattr(versioning, "restore", lambda root: False)
    assert sources.prepare(tmp_path, ["far"]) == {"far": "md5"} and downloads == [tmp_path / "data"]
    assert not (tmp_path / "data").exists()
    assert sources.prepare(tmp_path, ["one"]).keys() == {"one"}
    assert not (tmp_path / "data/two").exists()
    with pytest.raises(UserError, match="data/two/file differs"):
        sources.prepare(tmp_path, ["one", "two"])
    with pytest.raises(UserError, match=r"mars is not a data set that can be fetched; choose of far, one, two"):
        sources.prepare(tmp_path, ["mars"])


def test_unwritable_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", {"new": lambda folder: None})
    (tmp_path / "data").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(UserError, match=r"folder .*data: "):
        sources.fetch(tmp_path)
