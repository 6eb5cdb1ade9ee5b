"""Networks that the suite does not know: what methods ask of any network, and what is refused in one sentence."""

import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressbench import models, storage
from compressbench.errors import UserError
from compressbench.models import Network, foreign
from compressbench.pruning.surgery import build_narrow, keep_filters, permute_filters

NETWORKS = '''"""Networks of one's own."""
import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A sum, a concatenation, a map that is read flattened, functions in the place of modules."""

    def __init__(self, width=6, classes=3):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.inner, self.inner_norm = nn.Conv2d(width, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, width, 1)
        self.left, self.right = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 2, 1)
        self.last = nn.Conv2d(6, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 4 * 4, classes)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.outer(F.relu(self.inner_norm(self.inner(x)))))
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.fc(F.max_pool2d(F.relu(self.last(x)), 2).flatten(1))

    def taps(self):
        return ("stem", "last")


class Shuffled(Residual):
    """Its code fixes the channels of the last map."""

    def forward(self, x):
        x = torch.cat([self.left(self.stem(x)), self.right(self.stem(x))], 1)
        x = F.max_pool2d(self.last(x), 2)
        return self.fc((x * torch.arange(4.0, device=x.device).view(4, 1, 1)).reshape(-1, 64))


class Branching(Residual):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Viewing(Residual):
    def forward(self, x):
        x = F.max_pool2d(self.last(torch.cat([self.left(self.stem(x)), self.right(self.stem(x))], 1)), 2)
        return self.fc(x.view(len(x), -1))


class Normalised(Residual):
    def forward(self, x):
        return F.log_softmax(super().forward(x), 1)


class Auxiliary(Residual):
    """In training it gives two outputs."""

    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Scaled(Residual):
    """With a module of one's own that multiplies by its parameters."""

    def __init__(self):
        super().__init__()
        self.scale = Scale()

    def forward(self, x):
        return super().forward(self.scale(x))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.factor


def number(): return 3
network = Residual()
'''
IMAGES = [1, 8, 8]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `own_networks` that Python finds."""
    (tmp_path / "own_networks.py").write_text(NETWORKS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    del sys.modules["own_networks"]


def build(name: str = "Residual", **arguments: Any) -> Network:
    torch.manual_seed(0)
    return models.build(f"own_networks:{name}", **{"image_shape": IMAGES, **arguments})


def noise(count: int = 4) -> Tensor:
    return torch.randn(count, *IMAGES, generator=torch.Generator().manual_seed(1))


def test_the_wrapped_network_computes_what_the_module_does() -> None:
    import own_networks

    network = build().eval()
    torch.manual_seed(0)
    assert torch.equal(network(noise()), own_networks.Residual().eval()(noise()))
    assert network.features(noise()).shape == (4, 64)
    assert [*dict(network.named_modules())][-1] == "classifier"
    assert network.taps() == ("body.stem", "body.last")


def test_it_is_stored_and_loaded_like_any_other(tmp_path: Path) -> None:
    network = build(width=8, inner_widths={"body.inner": 2}).eval()
    storage.save_model(network, tmp_path)
    loaded = storage.load_model(tmp_path)
    assert loaded.spec == network.spec
    assert torch.equal(loaded(noise()), network(noise()))


def test_its_channels_are_free_wherever_the_network_proves_it() -> None:
    couplings = {c.key: c for c in build().couplings()}
    assert couplings.keys() == {"body.stem", "body.inner", "body.left", "body.right", "body.last"}
    assert couplings["body.stem"].added == (("body.outer", None),)
    assert couplings["body.inner"].norm == "body.inner_norm"
    assert (couplings["body.right"].offset, couplings["body.last"].pixels) == (4, 16)


def test_channels_that_the_code_fixes_are_not_free() -> None:
    assert {c.key for c in build("Shuffled").couplings()} == {"body.stem", "body.left", "body.right"}


def test_channels_change_places_and_the_function_stays() -> None:
    network = build().eval()
    before = network(noise())
    widths = foreign.widths_of(network.source)  # type: ignore[arg-type]
    permute_filters(network, {c.key: torch.arange(widths[c.key]).flip(0) for c in network.couplings()})
    assert torch.allclose(network(noise()), before, atol=1e-6)


def test_removed_filters_are_those_that_were_silent() -> None:
    network = build().eval()
    with torch.no_grad():
        for name in ("left", "last"):
            layer = network.get_submodule(f"body.{name}")
            layer.weight[1:3] = layer.bias[1:3] = 0  # type: ignore[operator,index]
    narrow = keep_filters(network, {"body.left": torch.tensor([0, 3]), "body.last": torch.tensor([0, 3])})
    assert torch.allclose(narrow(noise()), network(noise()), atol=1e-6)
    assert {c.key: c.offset for c in narrow.couplings()}["body.right"] == 2
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in network.parameters())


def test_a_narrow_network_starts_from_the_seed() -> None:
    network = build()

    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        narrow = build_narrow(network, {c.key: 2 for c in network.couplings()})
        return torch.cat([p.flatten() for p in narrow.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_a_narrow_network_needs_no_memory_to_be_counted() -> None:
    with torch.device("meta"):
        assert all(t.is_meta for t in build(inner_widths={"body.stem": 3}).state_dict().values())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Residual", {"image_shape": [8, 8]}, r"image_shape is \[8, 8\]; write \[channels, height, width\]"),
        ("Residual", {"image_shape": [3, 8, 8]}, r"does not run on images of image_shape \[3, 8, 8\]"),
        ("Residual", {"depth": 3}, "no argument depth"),
        ("Residual", {"inner_widths": {"body.stem": 9}}, "inner_widths.body.stem is 9; 1 to 6 are"),
        (
            "Residual",
            {"inner_widths": {"stem": 2}},
            "inner_widths.stem is 2; such a width is not free; free are: body.stem",
        ),
        ("Viewing", {}, "write `flatten` or `reshape` where it says `view`"),
        ("Normalised", {}, "its output is not that of a linear layer"),
        ("Auxiliary", {}, "its output is not that of a linear layer"),
        (
            "Scaled",
            {},
            r"no counter knows the layer scale \(Scale\), which has parameters: give Scale a method product_macs",
        ),
        ("number", {}, "gives a int, not a network"),
        ("network", {}, "is a network, not what builds one"),
    ],
)
def test_what_cannot_be_wrapped_is_one_sentence(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **arguments)


def test_a_plain_module_needs_to_say_what_it_reads() -> None:
    with pytest.raises(UserError, match=r"gives a plain Residual; add image_shape: \[channels, height, width\]"):
        models.build("own_networks:Residual")


def test_filters_of_a_network_that_branches_on_values_cannot_be_counted() -> None:
    with pytest.raises(UserError, match="its forward pass depends on the values in its tensors"):
        build("Branching").couplings()


def test_without_torch_pruning_only_the_channels_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "torch_pruning":
            raise ModuleNotFoundError("No module named 'torch_pruning'", name="torch_pruning")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    network = build(width=5)
    with pytest.raises(
        UserError, match=r"torch_pruning is not installed; install the extra: pip install 'compressbench\[own\]'"
    ):
        network.couplings()
