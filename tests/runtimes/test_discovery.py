"""A runtime is there because its file is in the folder."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from compressbench import runtimes
from compressbench.errors import UserError
from compressbench.plan import Plan
from compressbench.runtimes import discovery
from compressbench.runtimes.base import Runtime
from compressbench.timing.latency import measure
from tests.conftest import ROOT

BARE = '''
from typing import ClassVar
from compressbench.runtimes.base import Runtime

class Bare(Runtime):
    """The module itself."""

    name = "bare"

    def prepare(self, model, example):
        return lambda: model(example)

    def describe(self):
        return {"library": "none", "isa": "none"}
'''


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], object]]:
    """Puts a file bare.py into the folder of the runtimes, for one test."""
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(tmp_path)])
    yield lambda text: (tmp_path / "bare.py").write_text(text, encoding="utf-8")
    sys.modules.pop("compressbench.runtimes.bare", None)


def timed(*names: str) -> dict[str, list]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    return measure(network, network, (1, 4, 4), names, threads=(1,), rounds=2, warmup=1)


@pytest.mark.parametrize("declaration", ["name = ", "name: ClassVar[str] = "])
def test_a_file_in_the_folder_is_a_runtime_that_times_a_network(
    drop: Callable[[str], object], declaration: str
) -> None:
    drop(BARE.replace("name = ", declaration))
    assert "bare" in discovery.known()
    result = timed("torch_eager", "bare")
    assert [m["runtime"] for m in result["measurements"]] == ["torch_eager", "bare"]
    assert result["skipped"] == []


def test_a_file_in_the_folder_is_timed_wherever_a_scale_says_others(drop: Callable[[str], object]) -> None:
    before = {scale: Plan(ROOT, scale).latency.runtimes for scale in ("smoke", "desk", "paper")}
    drop(BARE)
    for scale, names in before.items():
        assert Plan(ROOT, scale).latency.runtimes == (*names, "bare")
    assert discovery.chosen(["onnxruntime", "*", "-bare", "-openvino*", "-torch_compiled"]) == (
        "onnxruntime", "compressbench", "onnxruntime_int8", "torch_eager"
    )  # fmt: skip
    assert discovery.chosen(["torch_eager", "package.module:Own"]) == ("torch_eager", "package.module:Own")
    with pytest.raises(UserError, match="unknown runtime 'tvm'; choose one of bare, compressbench"):
        discovery.chosen(["*", "-tvm"])


def test_a_runtime_whose_library_is_missing_is_known_and_skipped_with_the_reason(
    drop: Callable[[str], object],
) -> None:
    drop(f"import a_library_of_the_future\n{BARE}")
    assert "bare" in discovery.known()
    result = timed("bare", "torch_eager")
    assert result["skipped"] == [{"runtime": "bare", "reason": "a_library_of_the_future is not installed"}]
    assert [m["runtime"] for m in result["measurements"]] == ["torch_eager"]


def test_a_module_of_our_own_that_is_missing_is_an_error(drop: Callable[[str], object]) -> None:
    drop(f"import compressbench.nothing\n{BARE}")
    with pytest.raises(ModuleNotFoundError):
        timed("bare")


def test_two_runtimes_of_one_name_are_refused(drop: Callable[[str], object]) -> None:
    drop(BARE.replace('"bare"', '"onnxruntime"'))
    with pytest.raises(
        UserError, match=r"bare.py: compressbench.runtimes.onnxruntime has a runtime 'onnxruntime', too"
    ):
        discovery.known()


def test_an_unknown_runtime_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'tvm'.*onnxruntime.*torch_eager"):
        discovery.make_runtime("tvm")


def test_every_runtime_is_known_by_its_name() -> None:
    assert {"compressbench", "onnxruntime", "onnxruntime_int8", "torch_compiled", "torch_eager"} <= set(
        discovery.known()
    )
    for name, (module, cls) in discovery.known().items():
        found = getattr(importlib.import_module(module), cls)
        assert issubclass(found, Runtime) and found.name == name


def test_names_are_found_without_importing_a_runtime_or_torch() -> None:
    code = (
        "import sys; from compressbench.runtimes import discovery; "
        "print(len(discovery.known()) > 4, any(name.startswith(('torch', 'onnx')) for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8")
    assert done.stdout == "True False\n"
