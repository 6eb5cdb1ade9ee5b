"""Facts about the project's own files."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from compressbench.config.discovery import discover
from compressbench.errors import UserError
from compressbench.reporting.published import read_published
from tests.conftest import ROOT

# Packages of compressbench whose tests mirror them; "" stands for the modules of compressbench itself.
MIRRORED = (
    "", "config", "data", "data/sets", "data_free", "kernels", "layers", "method", "models", "plan", "pruning", "quantization",
    "reporting", "reporting/page", "runtimes", "runtimes/native", "stages", "supernet", "timing", "tracking", "training",
)  # fmt: skip
WITHOUT_A_TEST_FILE = {
    "__main__": "hands over to the fork server or to the command line: tests/test_fork_server.py runs it",
    "errors": "an exception without logic",
    "data/sets/_cifar100_few_shot": "a list of numbers, checked in tests/data/test_incremental.py",
    "data/preprocessing": "a form without logic, applied in tests/data/test_transforms.py",
    "data/synthetic": "two tensors with names",
    "layers/all_layers": "imports its neighbours: tests/layers/test_registry.py asks every kind",
}

FILE_ENDINGS = {"csv", "dvc", "html", "json", "md", "py", "safetensors", "yaml"}


def test_every_module_has_a_test_file_of_its_own() -> None:
    """tests/ROOM/test_MODULE.py for compressbench/ROOM/MODULE.py, test_ROOM.py for a package that defines something."""
    missing = set()
    for room in MIRRORED:
        for path in (ROOT / "compressbench" / room).glob("*.py"):
            name = path.stem
            if name == "__init__":
                body = ast.parse(path.read_text(encoding="utf-8")).body
                if not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body):
                    continue
                name = Path(room).name
            if not (ROOT / "tests" / room / f"test_{name}.py").exists():
                missing.add(f"{room}/{path.stem}".lstrip("/"))
    assert missing == WITHOUT_A_TEST_FILE.keys(), "write a test file, or the reason why there is none"


def test_conda_users_get_the_same_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {f"compressbench[{name}]": pins for name, pins in project["optional-dependencies"].items()}
    developing = [pin for given in extras["compressbench[dev]"] for pin in extras.get(given, [given])]
    pins = set(project["dependencies"] + developing)
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert pins == set(next(d["pip"] for d in conda if isinstance(d, dict)))
    assert all("==" in pin for pin in pins)


def test_every_method_folder_is_complete() -> None:
    for name, declared in discover(ROOT).items():
        folder = ROOT / declared.package.replace(".", "/")
        for file in ("method.py", "config.yaml", "published.csv", "README.md"):
            assert (folder / file).exists(), f"{name} has no {file}"
        assert "smoke" in declared.scales, f"{name} does not run at smoke scale"
        if not declared.is_baseline:
            assert "## What reproducing it taught us" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("readme", sorted((ROOT / "methods").glob("**/README.md")), ids=lambda path: path.parent.name)
def test_a_readme_maps_equations_to_names_that_the_code_has(readme: Path) -> None:
    """`module.name` for something that a module of the library, or of the method, defines or uses."""
    modules: dict[str, str] = {}
    for path in [*(ROOT / "compressbench").rglob("*.py"), *readme.parent.glob("*.py")]:
        name = path.parent.name if path.stem == "__init__" else path.stem
        modules[name] = modules.get(name, "") + path.read_text(encoding="utf-8")
    for dotted in re.findall(r"`((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)", readme.read_text(encoding="utf-8")):
        *rooms, owner, name = dotted.split(".")
        if owner in modules and name not in FILE_ENDINGS:
            assert all(room in modules for room in rooms), f"no room of {dotted}"
            assert name in modules or re.search(rf"\b{name}\b", modules[owner]), f"no {dotted} in the code"


def test_every_published_table_can_be_read(tmp_path: Path) -> None:
    declarations = discover(ROOT)
    table = read_published(ROOT / "methods", declarations)
    assert set(table.method) >= {name for name, declared in declarations.items() if not declared.is_baseline}
    assert (table.value != "").all() and (table.source != "").all()
    (tmp_path / "optg").mkdir()
    (tmp_path / "optg/published.csv").write_text(
        "dataset,model,setting,metric,value,source\na,b,c,d,1,one\na,b,c,d,1,one, two\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match="between quotes"):
        read_published(tmp_path, {"optg": declarations["optg"]})


def test_no_result_is_under_version_control() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8").stdout.split()
    assert not [f for f in tracked if f.startswith(("results/", "data/", "mlflow.db", "mlruns"))]


def test_loop_overhead_is_under_ten_percent() -> None:
    from tests.benchmarks.loop_overhead import ratio

    assert min(ratio(rounds=3) for _ in range(2)) < 1.10


def test_the_image_loader_reaches_half_of_pillows_limit(tmp_path: Path) -> None:
    from compressbench.data import photograph_folder
    from tests.benchmarks.loader_throughput import rates

    photograph_folder.write(tmp_path / "photographs", classes=4, train=10, val=1)
    found = rates(tmp_path / "photographs", rounds=3)  # the first one imports
    assert found["training"] > found["pillow"] / 2 and found["evaluation"] > found["pillow"] / 2
