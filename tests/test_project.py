"""Facts about the project's own files."""

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from compressbench.errors import UserError
from compressbench.registry import discover
from compressbench.reporting.published import read_published
from tests.conftest import ROOT


def test_conda_users_get_the_same_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = set(project["dependencies"] + project["optional-dependencies"]["dev"])
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
