"""The pin with the real DVC, in small repositories of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compressbench.data import sources, versioning
from compressbench.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pinned_once(tmp_path_factory) -> Path:
    """A DVC repository without git that pins three small files."""
    root = tmp_path_factory.mktemp("pinned")
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", root / ".dvc/config")
    shutil.copy(ROOT / ".dvcignore", root)
    for name, content in {"a/x.bin": "1", "a/b/y.bin": "2", "a-b/z.bin": "3"}.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    versioning.repin(root)
    return root


@pytest.fixture
def pinned(pinned_once, tmp_path) -> Path:
    return Path(shutil.copytree(pinned_once, tmp_path / "repository"))


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, encoding="utf-8").stdout


def test_folder_hash_is_the_one_of_dvc(pinned):
    assert versioning.content_hash(pinned) == versioning.folder_hash(versioning.hash_files(pinned / "data"))


def test_a_fresh_clone_with_equal_data_ends_clean_without_touching_the_pin(pinned):
    before = (pinned / "data.dvc").read_bytes()
    shutil.rmtree(pinned / ".dvc/cache")
    (pinned / "data/external").mkdir()
    (pinned / "data/external/own.bin").write_text("not pinned, and not an error", encoding="utf-8")
    (pinned / "data/.fetch-abc").mkdir()
    assert versioning.check(pinned).keys() == {"a", "a-b"}
    assert json.loads(dvc(pinned, "status", "--json")) == {}
    assert (pinned / "data.dvc").read_bytes() == before


def test_what_differs_is_named_and_never_pinned(pinned):
    before = (pinned / "data.dvc").read_bytes()
    (pinned / "data/a/x.bin").write_text("9", encoding="utf-8")
    (pinned / "data/a-b/z.bin").unlink()
    (pinned / "data/new.bin").write_text("", encoding="utf-8")
    with pytest.raises(UserError) as error:
        versioning.check(pinned)
    for part in ("data/a/x.bin differs", "data/a-b/z.bin is missing", "data/new.bin is not pinned", "data.dvc"):
        assert part in str(error.value)
    assert (pinned / "data.dvc").read_bytes() == before


def test_fetch_takes_the_data_from_the_cache_before_the_source(pinned, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", {"a": lambda folder: pytest.fail("asked the source")})
    shutil.rmtree(pinned / "data")
    assert versioning.prepare(pinned).keys() == {"a", "a-b"}


def test_fetch_takes_the_data_from_a_remote(pinned, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "SOURCES", {"a": lambda folder: pytest.fail("asked the source")})
    dvc(pinned, "remote", "add", "--default", "store", str(tmp_path / "store"))
    dvc(pinned, "push")
    shutil.rmtree(pinned / "data")
    shutil.rmtree(pinned / ".dvc/cache")
    assert versioning.prepare(pinned).keys() == {"a", "a-b"}


@pytest.mark.parametrize(
    "content", [None, "", "outs: [", "outs: []\nmeta: {files: {}}", "outs:\n- md5: x\n  path: data\n"]
)
def test_damaged_pin_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "data.dvc").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.dvc is"):
        versioning.content_hash(tmp_path)


def test_pin_that_contradicts_itself_is_named(pinned):
    path = pinned / "data.dvc"
    path.write_text(path.read_text(encoding="utf-8").replace("a/x.bin", "a/renamed.bin"), encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.dvc.*disagree"):
        versioning.content_hash(pinned)


def test_the_projects_pin_agrees_with_itself():
    assert versioning.content_hash(ROOT).endswith(".dir")
    assert {name.split("/")[0] for name in versioning.pinned_files(ROOT)} == set(sources.SOURCES)


def test_the_projects_data_stage_ends_clean(data_root):
    assert json.loads(dvc(data_root, "status", "--json")) == {}
