"""Parts from outside the suite: as package.module:attribute, and as entry points of installed packages."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from compressbench import data, models, plugins, storage
from compressbench.config import MethodConfig, discovery
from compressbench.errors import UserError
from compressbench.method import loading
from compressbench.plan import Plan
from compressbench.runtimes import discovery as runtimes
from tests.conftest import ROOT

KNOWN = {"len": len}
DATASET = """
from compressbench.data import Dataset, DatasetInfo

STRIPES = Dataset(DatasetInfo("stripes", "classification", 1, 8, 2, (0.5,), (0.5,)), lambda folder, limit: (folder, limit))
"""
METHOD = """
from compressbench.layers.masked import masked
from compressbench.method import Context, Method


class Idle(Method):
    def compress(self, ctx: Context):
        return masked(ctx.dense())
"""
DECLARATION = """
title: Idle
paper: none
family: unstructured
task: [classification]
stages: [compress]
starts_from: dense
settings: {plain: {}}
scales: {smoke: {runs: {sparse: [plain]}}}
"""
NETWORK = """
from compressbench.models.plain import Plain


class Stripy(Plain):
    def __init__(self, width: int = 8):
        super().__init__(in_channels=1, widths=[width, 8], strides=[2, 1])
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `outside` that Python finds."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "outside/sets.py").write_text(DATASET, encoding="utf-8")
    (tmp_path / "outside/nets.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "outside/broken.py").write_text("import nothing_of_that_name", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "outside"
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside"]:
        del sys.modules[name]


def test_known_names_win() -> None:
    assert plugins.find("function", "len", KNOWN) is len


def test_a_data_set_of_another_package_is_used_like_those_of_the_suite(package: Path, tmp_path: Path) -> None:
    assert data.info("outside.sets:STRIPES").classes == 2
    assert data.load("outside.sets:STRIPES", tmp_path, limit=7) == (tmp_path, 7)


def test_a_network_of_another_package_is_stored_and_loaded(package: Path, tmp_path: Path) -> None:
    model = models.build("outside.nets:Stripy", width=4)
    storage.save_model(model.eval(), tmp_path)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(storage.load_model(tmp_path)(images), model(images))


def test_a_method_of_an_installed_package_runs_like_those_of_the_project(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "idle").mkdir()
    (package / "idle/__init__.py").write_text("", encoding="utf-8")
    (package / "idle/method.py").write_text(METHOD, encoding="utf-8")
    (package / "idle/config.yaml").write_text(DECLARATION, encoding="utf-8")
    offered = [EntryPoint("idle", "outside.idle", "compressbench.methods")]
    monkeypatch.setattr(discovery, "entry_points", lambda group: offered if group == offered[0].group else [])
    for cached in (discovery.files, discovery.declaration):
        cached.cache_clear()
    plan = Plan(ROOT, "smoke", ["idle"])
    assert {run.setting for run in plan.runs} == {"plain"}
    assert type(plan.job(plan.runs[0], "compress").configuration) is MethodConfig
    assert loading.method_class(ROOT, "idle").__name__ == "Idle"
    assert "idle" in Plan(ROOT, "smoke").declarations
    for cached in (discovery.files, discovery.declaration):
        cached.cache_clear()


def test_a_runtime_of_another_package_is_made(package: Path) -> None:
    (package / "fast.py").write_text("class Fast:\n    name = 'fast'\n", encoding="utf-8")
    runtimes.check("outside.fast:Fast")
    assert runtimes.make_runtime("outside.fast:Fast").name == "fast"
    with pytest.raises(UserError, match="unknown runtime 'tvm'; choose one of compressbench, onnxruntime"):
        runtimes.check("tvm")


def test_an_installed_package_offers_parts_by_name(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(group: str, name: str) -> list[EntryPoint]:
        offered = EntryPoint("stripes", "outside.sets:STRIPES", "compressbench.data_sets")
        return [offered] if (group, name) == (offered.group, offered.name) else []

    monkeypatch.setattr(plugins, "entry_points", installed)
    assert data.info("stripes").name == "stripes"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"unknown function 'nothing'; choose one of len, or name your own as package.module:attribute"),
        ("nowhere.at:all", "'nowhere.at:all' cannot be imported .*nowhere"),
        ("os:nothing", "'os:nothing' cannot be imported .*nothing"),
        ("outside.broken:X", "nothing_of_that_name"),
        ("os:sep", "'os:sep' is a str, not something to call"),
        (":x", "cannot be imported"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(package: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plugins.find("function", name, KNOWN)


def test_something_else_under_that_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"is a module, not a compressbench\.data\.datasets\.Dataset"):
        data.info("os:path")
