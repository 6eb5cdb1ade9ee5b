"""Tests of the discovery of methods: folders of the project, and packages that offer more."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compressbench.config import discovery
from compressbench.errors import UserError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Folders are looked for again, before and after a test that changes what is installed."""
    caches = (discovery.files, discovery.own_files, discovery.declaration)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def add(root: Path, folder: str, source: str = "methods/optg") -> Path:
    (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / source / "config.yaml", root / folder / "config.yaml")
    return root / folder


def test_methods_and_baselines_are_found_by_their_folders(tmp_path: Path) -> None:
    add(tmp_path, "methods/mine")
    add(tmp_path, "methods/baselines/other", "methods/baselines/magnitude")
    (tmp_path / "methods/notes").mkdir()
    found = discovery.discover(tmp_path)
    assert {name: declared.package for name, declared in found.items()} == {
        "mine": "methods.mine", "other": "methods.baselines.other",
    }  # fmt: skip
    assert not found["mine"].is_baseline and found["other"].is_baseline
    assert discovery.folder(tmp_path, "other") == tmp_path / "methods/baselines/other"


def test_a_name_that_a_method_and_a_baseline_have_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "methods/mine")
    add(tmp_path, "methods/baselines/mine")
    with pytest.raises(UserError, match=r"methods/mine/config\.yaml: a second method is called 'mine'"):
        discovery.files(tmp_path)


def test_a_folder_without_config_yaml_is_named(tmp_path: Path) -> None:
    add(tmp_path, "methods/mine")
    (tmp_path / "methods/new").mkdir()
    (tmp_path / "methods/new/method.py").touch()
    with pytest.raises(UserError, match=r"methods/new has no config\.yaml; write one"):
        discovery.declaration(tmp_path, "new")
    with pytest.raises(UserError, match=r"unknown method 'old'; methods/ has: mine\."):
        discovery.declaration(tmp_path, "old")


def test_outside_a_project_it_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no method folder with a config\.yaml; run from the project's root"):
        discovery.own_files(tmp_path)


def test_an_installed_package_offers_a_method_that_is_not_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "methods/mine")
    package = add(tmp_path / "site", "plugin_for_a_test")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(discovery, "_installed", lambda: {"theirs": "plugin_for_a_test"})
    assert discovery.declaration(tmp_path, "theirs").package == "plugin_for_a_test"
    discovery.files.cache_clear()
    monkeypatch.setattr(discovery, "_installed", lambda: {"mine": "plugin_for_a_test"})
    with pytest.raises(UserError, match="plugin_for_a_test: a second method is called 'mine'; rename its entry point"):
        discovery.files(tmp_path)
    monkeypatch.setattr(discovery, "_installed", lambda: {"gone": "no_such_package.method"})
    with pytest.raises(UserError, match=r"no_such_package\.method cannot be found; repair the installation"):
        discovery.files(tmp_path)
