"""The pin with the real DVC, in small repositories of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compressbench.data import sources, versioning
from compressbench.data.datasets import fetchable
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
    assert sources.prepare(pinned).keys() == {"a", "a-b"}


def test_fetch_takes_the_data_from_a_remote(pinned, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "SOURCES", {"a": lambda folder: pytest.fail("asked the source")})
    dvc(pinned, "remote", "add", "--default", "store", str(tmp_path / "store"))
    dvc(pinned, "push")
    shutil.rmtree(pinned / "data")
    shutil.rmtree(pinned / ".dvc/cache")
    assert sources.prepare(pinned).keys() == {"a", "a-b"}


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
    assert {name.split("/")[0] for name in versioning.pinned_files(ROOT)} == set(sources.SOURCES) == set(fetchable())


def test_the_projects_data_stage_ends_clean(data_root):
    assert json.loads(dvc(data_root, "status", "--json")) == {}


def replace(path: Path, content: bytes) -> None:
    """DVC keeps its cache read-only."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["file", "listing"])
def test_damage_in_the_cache_is_dropped_and_the_public_source_is_asked(pinned, monkeypatch, kind):
    pins = versioning.pinned_files(pinned)
    victim = versioning._cached(pinned, pins["a/x.bin"] if kind == "file" else versioning.content_hash(pinned))
    replace(victim, b"damaged")
    original = {name: (pinned / "data" / name).read_bytes() for name in pins}

    def source(name: str):
        def fetch(folder: Path) -> None:
            for file, content in original.items():
                if file.startswith(f"{name}/"):
                    (folder / file.removeprefix(f"{name}/")).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file.removeprefix(f"{name}/")).write_bytes(content)

        return fetch

    monkeypatch.setattr(sources, "SOURCES", {name: source(name) for name in ("a", "a-b")})
    for _ in range(2):
        shutil.rmtree(pinned / "data")
        assert sources.prepare(pinned).keys() == {"a", "a-b"}
    assert json.loads(dvc(pinned, "status", "--json")) == {}
    assert versioning._md5(victim) == victim.parent.name + victim.name.removesuffix(".dir")


def test_damage_in_a_remote_is_not_kept(pinned, monkeypatch, tmp_path):
    dvc(pinned, "remote", "add", "--default", "store", str(tmp_path / "store"))
    dvc(pinned, "push")
    md5 = versioning.pinned_files(pinned)["a/x.bin"]
    replace(tmp_path / "store/files/md5" / md5[:2] / md5[2:], b"damaged")
    monkeypatch.setattr(
        sources, "SOURCES", {"a": lambda folder: shutil.copytree(tmp_path / "a", folder, dirs_exist_ok=True)}
    )
    shutil.copytree(pinned / "data/a", tmp_path / "a")
    shutil.rmtree(pinned / "data")
    shutil.rmtree(pinned / ".dvc/cache")
    assert sources.prepare(pinned).keys() == {"a", "a-b"}
    assert versioning._md5(versioning._cached(pinned, md5)) == md5


def test_what_operating_systems_leave_behind_is_no_damage(pinned):
    for name in (".DS_Store", "a/.DS_Store", "a/b/._y.bin", "a/Thumbs.db", "a-b/desktop.ini", "a/.hidden/z.bin"):
        (pinned / "data" / name).parent.mkdir(exist_ok=True)
        (pinned / "data" / name).write_bytes(b"left behind")
    assert versioning.check(pinned).keys() == {"a", "a-b"}
    assert json.loads(dvc(pinned, "status", "--json")) == {}, ".dvcignore leaves out other files than the check"
    assert versioning.repin(pinned) == versioning.folder_hash(versioning.pinned_files(pinned))


def test_only_what_can_be_fetched_is_advised_to_be_deleted(pinned, monkeypatch):
    monkeypatch.setattr(versioning, "fetchable", lambda: ("a",))
    for name in ("a/x.bin", "a-b/z.bin", "new/own.bin"):
        (pinned / "data" / name).parent.mkdir(exist_ok=True)
        (pinned / "data" / name).write_bytes(b"changed")
    with pytest.raises(UserError) as error:
        versioning.check(pinned)
    advice = str(error.value).partition("pins: ")[2].split("; ")[1:]
    assert advice == [
        "move what is not pinned into data/external/",
        "delete data/a and run `compressbench data`, which fetches it again",
        "bring back your own copy of data/a-b, which the suite cannot fetch",
        "if the change is meant, pin it with `compressbench data --repin`.",
    ]


def test_following_the_advice_helps(pinned, monkeypatch):
    """Damage in data/ is restored from the cache; what is not pinned has a place; a change can be pinned."""
    monkeypatch.setattr(versioning, "fetchable", lambda: ("a",))
    monkeypatch.setattr(sources, "SOURCES", {"a": lambda folder: pytest.fail("asked the source")})
    (pinned / "data/a/x.bin").write_bytes(b"changed")
    (pinned / "data/new.bin").write_bytes(b"own")
    (pinned / "data/external").mkdir()
    shutil.move(pinned / "data/new.bin", pinned / "data/external")
    shutil.rmtree(pinned / "data/a")
    assert sources.prepare(pinned).keys() == {"a", "a-b"}
    (pinned / "data/a-b/z.bin").write_bytes(b"meant")
    versioning.repin(pinned)
    assert sources.prepare(pinned).keys() == {"a", "a-b"}
    assert (pinned / "data/external/new.bin").read_bytes() == b"own"
