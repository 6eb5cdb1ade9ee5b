"""Where data comes from, without a network."""

import errno
import gzip
from pathlib import Path

import pytest

from compressbench.data import sources, versioning
from compressbench.data.sets import fashion_mnist
from compressbench.errors import UserError


@pytest.fixture(autouse=True)
def no_installed_package(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", Path("usr/share/datasets/nowhere"))


def broken(scratch: Path) -> Path:
    raise OSError("no network")


def test_what_the_wheels_ship_is_what_is_pinned(tmp_path):
    root = Path(__file__).parents[2]
    pinned = versioning.pinned_files(root)
    for name in ("digits", "photographs"):
        (tmp_path / name).mkdir()
        sources.SOURCES[name](tmp_path / name)
    fetched = versioning.hash_files(tmp_path)
    assert fetched == {name: md5 for name, md5 in pinned.items() if not name.startswith("fashion_mnist")}


@pytest.mark.parametrize("relative", [False, True])
def test_debian_package_is_the_fallback_and_is_decompressed(tmp_path, monkeypatch, relative):
    commands = []
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    data = Path("data") if relative else tmp_path / "data"  # the command line has a relative one

    def run(command: list[str], folder: Path) -> None:
        commands.append(command[:2])
        if command[1] == "download":
            (folder / "dataset.deb").touch()
        if command[0] == "dpkg":
            assert (folder / command[2]).is_file()
            target = folder / "unpacked" / fashion_mnist._DEBIAN_FOLDER
            target.mkdir(parents=True)
            for name in fashion_mnist.IDX_FILES:
                (target / f"{name}.gz").write_bytes(gzip.compress(name.encode()))

    monkeypatch.setattr(fashion_mnist, "_from_torchvision", broken)
    monkeypatch.setattr(fashion_mnist, "_run", run)
    fashion_mnist.fetch(data)
    assert {path.name: path.read_text(encoding="utf-8") for path in data.iterdir()} == {
        name: name for name in fashion_mnist.IDX_FILES
    }
    assert commands == [["apt-get", "download"], ["dpkg", "-x"]]


def test_failure_of_every_source_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_from_torchvision", broken)
    monkeypatch.setattr(fashion_mnist, "_from_debian", broken)
    monkeypatch.setattr(sources, "SOURCES", {"fashion_mnist": fashion_mnist.fetch})
    with pytest.raises(UserError, match=r"no network.*train-images-idx3-ubyte"):
        sources.fetch(tmp_path)
    assert list((tmp_path / "data").iterdir()) == []


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


def test_full_disk_is_no_reason_to_try_another_source(tmp_path, monkeypatch):
    def full(scratch: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fashion_mnist, "_from_torchvision", full)
    monkeypatch.setattr(fashion_mnist, "_from_debian", lambda scratch: pytest.fail("asked another source"))
    monkeypatch.setattr(sources, "SOURCES", {"fashion_mnist": fashion_mnist.fetch})
    with pytest.raises(UserError, match=r"cannot write .*fashion_mnist: No space left on device; make room\.$"):
        sources.fetch(tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
