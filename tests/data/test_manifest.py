"""The hash of data that the project does not pin."""

import os
from pathlib import Path

import pytest

from compressbench.data import manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"a/x": "1", "a/y": "22", "b/z": "333", ".hidden/w": "4", "b/.w": "5"}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(content, encoding="utf-8")
    return tmp_path / "set"


def hash_of(folder: Path, mode: str = "all") -> str:
    return manifest.of(folder, sorted(manifest.files(folder)), mode)  # type: ignore[arg-type]


def test_hidden_files_are_no_part_of_it(folder: Path) -> None:
    assert [file.name for file in sorted(manifest.files(folder))] == ["a/x", "a/y", "b/z"]
    before = hash_of(folder)
    (folder / "a/.DS_Store").touch()
    assert hash_of(folder) == before


@pytest.mark.parametrize("mode", ["names", "sample", "all"])
def test_a_name_and_a_size_always_count_and_a_time_never(folder: Path, mode: str) -> None:
    before = hash_of(folder, mode)
    os.utime(folder / "a/x", (1, 1))
    assert hash_of(folder, mode) == before
    (folder / "a/x").rename(folder / "a/v")
    renamed = hash_of(folder, mode)
    (folder / "a/v").write_text("longer", encoding="utf-8")
    assert len({before, renamed, hash_of(folder, mode)}) == 3


def test_content_counts_where_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {mode: hash_of(folder, mode) for mode in ("names", "sample", "all")}
    (folder / "a/x").write_text("9", encoding="utf-8")
    changed = {mode for mode, value in before.items() if hash_of(folder, mode) != value}
    assert changed == {"sample", "all"}  # 1,000 files are all of three
    monkeypatch.setattr(manifest, "SAMPLE", 0)
    assert hash_of(folder, "sample") == before["names"]


def test_it_is_computed_once_and_again_when_a_file_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, computed = folder.parent, []
    of = manifest.of
    monkeypatch.setattr(manifest, "of", lambda *given: computed.append(given) or of(*given))
    first = manifest.recorded(root, "set", folder, "all")
    assert first == manifest.recorded(root, "set", folder, "all") == manifest.refreshed(root, "set", folder, "all")
    assert first.startswith("all-") and len(first) <= 36 and len(computed) == 1
    (folder / "a/x").write_text("9", encoding="utf-8")
    assert manifest.recorded(root, "set", folder, "all") == first  # a stage asks for what the plan was made with
    second = manifest.refreshed(root, "set", folder, "all")
    assert second != first and second == manifest.recorded(root, "set", folder, "all") and len(computed) == 2
    assert manifest.recorded(root, "set", folder, "names") != second and len(computed) == 3
    copy = folder.rename(root / "moved")
    assert manifest.recorded(root, "set", copy, "all") == second and len(computed) == 4
