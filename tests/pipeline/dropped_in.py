"""Methods that a project gets by a folder each."""

import re
from pathlib import Path

import yaml

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

TOY_METHOD = '''
"""Half of the weights of every layer, chosen at random."""

from pydantic import Field
from torch import nn

from compressbench.layers.masked import masked, masked_layers
from compressbench.method import Method, MethodConfig
from compressbench.method.context import Context
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
        "scales": {"smoke": {"runs": {"blocks": settings}}},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(declaration), encoding="utf-8")
    (folder / "method.py").write_text(TOY_METHOD, encoding="utf-8")
    (folder / "__init__.py").write_text('"""A toy."""\n', encoding="utf-8")
    (folder / "published.csv").write_text("dataset,model,setting,metric,value,source\n", encoding="utf-8")
    (folder / "README.md").write_text(
        "# Toy\n\n## What reproducing it taught us\n\nThat a folder is enough.\n", encoding="utf-8"
    )


def drop_in_the_readmes(root: Path) -> None:
    """The method `mine` that README.md shows, its configuration and its code, as they stand there."""
    config, code = (re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[0] for language in ("yaml", "python"))
    folder = root / "methods/mine"
    folder.mkdir()
    for name, content in (("config.yaml", config), ("method.py", code), ("__init__.py", "")):
        (folder / name).write_text(content, encoding="utf-8")
