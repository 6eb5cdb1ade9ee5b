"""Precision and compilation of the forward pass."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressbench.config import Recipe
from compressbench.training.forward import as_configured
from tests.contexts import make_context
from tests.training.runs import batch, cross_entropy, network

CPU = torch.device("cpu")


def test_by_default_the_loss_is_as_it_is() -> None:
    assert as_configured(Recipe(epochs=1, lr=0.1), cross_entropy, CPU) is cross_entropy


def test_bf16_multiplies_in_bfloat16_and_leaves_loss_and_weights_in_float32() -> None:
    model, seen = network(), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))  # type: ignore[index]
    loss = as_configured(Recipe(epochs=1, lr=0.1, precision="bf16"), cross_entropy, CPU)
    torch.manual_seed(1)
    value = loss(model, batch(0))
    torch.manual_seed(1)
    exact = cross_entropy(model, batch(0))
    value.backward()
    assert seen == [torch.bfloat16, torch.float32] and value.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert value != exact
    torch.testing.assert_close(value, exact, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whatever_a_loss_calls_is_compiled(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a part of the network by itself. The compiler here is one that leaves every operation as it is."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = network().eval()

    def loss(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        return model[0](pair[0]).square().mean() + cross_entropy(model, pair)  # type: ignore[index,operator]

    recipe = Recipe(epochs=1, lr=0.1, precision=precision)
    plain, translated = (
        as_configured(own, loss, CPU)(model, batch(0)) for own in (recipe, recipe.model_copy(update={"compile": True}))
    )
    assert graphs and torch.equal(plain, translated)


def test_a_context_trains_as_its_recipe_says(data_root: Path, tmp_path: Path) -> None:
    weights = []
    for number, changes in enumerate(({}, {"precision": "bf16"}, {"accumulate": 2})):
        ctx = make_context(data_root, tmp_path / str(number))
        recipe = ctx.recipes.scratch.model_copy(update={"epochs": 1, "steps_per_epoch": 2} | changes)
        weights.append(ctx.fit(ctx.build(), recipe).state_dict()["classifier.weight"])
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 3
