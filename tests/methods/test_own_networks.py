"""A network of one's own: a method works on it, or says in one sentence before anything runs why it cannot."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from compressbench import models
from compressbench.config import discovery
from compressbench.errors import UserError
from compressbench.method import loading
from tests.conftest import ROOT

FUNCTIONAL = '''
class Functional(nn.Module):
    """Its activations are functions, its convolutions have biases and no batch norms."""

    def __init__(self):
        super().__init__()
        self.stem, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.second(self.stem(x).relu()).relu().mean((2, 3)))
'''
BINARY = {"bnn", "xnor", "recu", "siman"}
OWN_FORM = BINARY | {"cf_vit", "vit", "pss_net", "uniform_subnets", "separate_subnets"}
REFUSED = {
    "Small": OWN_FORM | {"ffsd", "df_mpc"},
    "Functional": OWN_FORM
    | {"ffsd", "df_mpc", "udfc", "neuron_merging", "intraq", "fdda", "white_box", "minmax", "clipping"},
}
METHODS = [name for name, declared in discovery.discover(ROOT).items() if "classification" in declared.task]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The network of docs/your-own.md, and one that is written otherwise."""
    page = (ROOT / "docs/your-own.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_networks.py").write_text(code + FUNCTIONAL, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_networks", None)


@pytest.mark.parametrize("network", REFUSED)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_checks_the_network(name: str, network: str) -> None:
    declared = discovery.declaration(ROOT, name)
    setting = next(setting for settings in declared.scales["smoke"].runs.values() for setting in settings)
    method = loading.method_class(ROOT, name)(loading.resolve(ROOT, name, setting, "smoke"))
    with torch.device("meta"):
        built = models.build(f"my_networks:{network}", image_shape=[3, 16, 16])
    if name in REFUSED[network]:
        with pytest.raises(UserError) as refused:
            method.check(built)
        assert "\n" not in str(refused.value)
    else:
        method.check(built)
