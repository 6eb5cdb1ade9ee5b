"""Tests of TorchScript: the faster of two forms, and networks that cannot be compiled."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressbench.runtimes import torch_compiled
from compressbench.runtimes.base import Skip
from compressbench.runtimes.torch_compiled import TorchCompiled

X = torch.randn(1, 3, 8, 8)


@pytest.mark.parametrize("form", ["frozen", "packed"])
def test_both_forms_compute_the_network(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[set[str]] = []

    def choose(calls: dict[str, Callable[[], Tensor]]) -> str:
        offered.append(set(calls))
        return form

    monkeypatch.setattr(torch_compiled, "fastest", choose)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    with torch.no_grad():
        torch.testing.assert_close(TorchCompiled().prepare(model, X)(), model(X), rtol=1e-4, atol=1e-5)
    assert offered == [{"frozen", "packed"}]


def test_a_network_that_cannot_be_traced_is_skipped_with_the_reason() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> object:
            return {1, 2}

    with pytest.raises(Skip, match="TorchScript cannot run this model: "):
        TorchCompiled().prepare(Strange().eval(), X)
