"""The dense reference: nothing is removed, nothing changed."""

from pathlib import Path

import torch

from compressbench.layers.masked import masked_layers
from methods.baselines.dense.method import Dense
from tests.contexts import make_context


def test_the_checkpoint_is_the_shared_dense_model_as_it_is(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    model = Dense(Dense.Config()).compress(ctx)
    expected = ctx.dense().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not masked_layers(model)


def test_the_full_budget_trains_from_the_shared_initialisation(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    model = Dense(Dense.Config(source="full_budget")).compress(ctx)
    before, after = ctx.build().state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
