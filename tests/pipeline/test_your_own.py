"""docs/your-own.md: a network that the suite does not know, five methods, one configuration, a table, a file to take away."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressbench.data import photograph_folder
from compressbench.plan import Plan
from tests.conftest import ROOT, copy_tree, run_module
from tests.pipeline.conftest import snakemake

pytestmark = pytest.mark.pipeline

SHORT = {"epochs": 3, "batch_size": 64, "lr": 0.1}
METHODS = {"magnitude", "one_by_n", "clr_rnf", "l1_filter", "minmax"}


def block(language: str, first_line: str) -> str:
    """The code block of the page that begins with a line."""
    page = (ROOT / "docs/your-own.md").read_text(encoding="utf-8")
    (found,) = [
        text for text in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if text.startswith(first_line)
    ]
    return found


def on_digits(scale: dict[str, Any]) -> dict[str, Any]:
    """The page's scale with its own network on the digits, for seconds."""
    pair = {
        "architecture": "my_networks:Small",
        "arguments": {"channels": 1, "image_shape": [1, 16, 16]},
        **dict.fromkeys(("scratch", "pretrain", "finetune"), SHORT),
    }
    latency = {"rounds": 30, "warmup": 1, "runtimes": ["torch_eager"]}
    own = {"seeds": [0], "latency": latency, "methods": scale["methods"]}
    return own | {"comparisons": {"mine": ["digits/small"]}, "pairs": {"digits/small": pair}}


def test_one_configuration_makes_a_table_of_five_methods(tmp_path: Path, data_root: Path) -> None:
    text = block("yaml", "# config/birds.yaml")
    assert len(text.splitlines()) <= 30
    root = copy_tree(tmp_path, data_root)
    (root / "my_networks.py").write_text(block("python", "# my_networks.py"), encoding="utf-8")
    (root / "config/mine.yaml").write_text(yaml.safe_dump(on_digits(yaml.safe_load(text))), encoding="utf-8")
    run = snakemake(root, "--config", "scale=mine")
    assert run.returncode == 0, run.stderr[-3000:]
    with (root / "results/mine/report/tables/comparison_digits_small.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == METHODS | {"dense"}
    dense = next(row for row in rows if row["method"] == "dense")
    for row in rows:
        assert float(row["quality"]) > 15, "it has learned"
        if row["method"] in ("clr_rnf", "l1_filter"):
            assert float(row["macs"]) < 0.55 * float(dense["macs"])
    done = run_module(root, "export", "mine/digits/small/minmax/w8a8/seed0")
    assert done.returncode == 0, done.stderr
    assert "(int8, " in done.stdout


def test_the_configuration_as_it_stands_fits_its_network(tmp_path: Path, data_root: Path) -> None:
    root, folder = copy_tree(tmp_path, data_root), tmp_path / "birds"
    photograph_folder.write(folder, classes=2, train=1, val=1)
    text = block("yaml", "# config/birds.yaml").replace("/data/birds", str(folder))
    (root / "config/birds.yaml").write_text(text, encoding="utf-8")
    plan = Plan(root, "birds")
    plan.validate()
    plan.data.check()
    assert {run.method for run in plan.runs} == METHODS | {"dense"}
    assert plan.data.of(plan.runs[0]).info.image_shape == (3, 224, 224)
