"""The plan: its cost, its contents, and that a method is a folder."""

import re
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, run_module
from tests.pipeline.conftest import snakemake

pytestmark = pytest.mark.pipeline

TOY_METHOD = '''
"""Half of the weights of every layer, chosen at random."""

from pydantic import Field
from torch import nn

from compressbench.compression.layers import masked, masked_layers
from compressbench.method import Method, MethodConfig
from compressbench.stages.context import Context
import torch


class ToyConfig(MethodConfig):
    """The share that stays."""

    density: float = Field(0.5, gt=0, le=1)


class Toy(Method):
    """Random masks on the dense model, without training."""

    Config = ToyConfig
    config: ToyConfig

    def compress(self, ctx: Context) -> nn.Module:
        model = masked(ctx.dense())
        random = ctx.generator("masks")
        for layer in masked_layers(model).values():
            layer.mask.copy_(torch.rand(layer.mask.shape, generator=random) < self.config.density)
        return model
'''


def drop_in(root: Path, name: str, settings: list[str]) -> None:
    folder = root / "methods" / name
    folder.mkdir()
    declaration = {
        "title": name.title(), "paper": "none", "family": "unstructured", "task": ["classification"], "stages": ["compress"],
        "starts_from": "dense", "settings": {s: {"density": 0.5} for s in settings},
        "scales": {"smoke": {"runs": {"digits/plain_mini": settings}}},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(declaration), encoding="utf-8")
    (folder / "method.py").write_text(TOY_METHOD, encoding="utf-8")
    (folder / "__init__.py").write_text('"""A toy."""\n', encoding="utf-8")
    (folder / "published.csv").write_text("dataset,model,setting,metric,value,source\n", encoding="utf-8")
    (folder / "README.md").write_text(
        "# Toy\n\n## What reproducing it taught us\n\nThat a folder is enough.\n", encoding="utf-8"
    )


def test_a_dropped_in_folder_is_a_method(project: Path) -> None:
    drop_in(project, "toy", ["half"])
    process = snakemake(project, "--config", "scale=smoke", "methods=[toy,dense]")
    assert process.returncode == 0, process.stderr[-3000:]
    tables = "".join(p.read_text(encoding="utf-8") for p in (project / "results/smoke/report/tables").glob("*.md"))
    findings = "".join(p.read_text(encoding="utf-8") for p in (project / "results/smoke/report").rglob("findings.md"))
    assert "Toy" in tables
    assert "That a folder is enough." in findings


def test_one_method_is_a_target(project: Path) -> None:
    process = snakemake(project, "-n", "snip", "--config", "scale=smoke")
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-2000:]
    assert "compress" in output and "optg" not in output


def test_planning_18_methods_with_4_settings_and_3_seeds_takes_under_15_seconds(project: Path) -> None:
    for i in range(18):
        drop_in(project, f"toy{i}", ["a", "b", "c", "d"])
    methods = ",".join(f"toy{i}" for i in range(18))
    start = time.monotonic()
    process = snakemake(project, "-n", "--quiet", "--config", "scale=smoke", f"methods=[{methods}]", "seeds=[0,1,2]")
    seconds = time.monotonic() - start
    assert process.returncode == 0, process.stderr[-2000:]
    assert seconds < 15


def test_every_rule_logs_and_claims_resources() -> None:
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        if file.stem in ("common", "methods"):
            continue
        text = file.read_text(encoding="utf-8")
        for keyword in ("log:", "threads:", "resources:", "shell:"):
            rules = re.findall(r"^rule ", text, re.MULTILINE)
            assert len(rules) == text.count(f"    {keyword}") > 0, f"{file.name}: {keyword}"


def test_validate_by_hand(project: Path) -> None:
    process = run_module(project, "validate", "smoke")
    assert process.returncode == 0 and "all valid" in process.stdout
