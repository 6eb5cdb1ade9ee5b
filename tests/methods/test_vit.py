"""The plain transformer: the control of the coarse-to-fine one."""

from pathlib import Path
from typing import Any

import pytest

from compressbench.errors import UserError
from methods.baselines.vit.method import PlainViT
from tests.contexts import VIT, full_size_context, make_context


def config(**values: Any) -> PlainViT.Config:
    return PlainViT.Config.model_validate({"mixup": 0, "cutmix": 0} | values)


@pytest.mark.parametrize("shrink, tokens", [(1, 17), (2, 5)])
def test_both_resolutions_learn_the_digits(data_root: Path, tmp_path: Path, shrink: int, tokens: int) -> None:
    ctx = make_context(data_root, tmp_path, optimizer="adam", lr=5e-3, epochs=8, batch_size=32, warmup_epochs=2)
    ctx.pair = ctx.pair.model_copy(update={"architecture": "vit", "arguments": VIT})
    model: Any = PlainViT(config(shrink=shrink)).compress(ctx)
    assert model.positions.shape[1] == tokens and model.spec.arguments["shrink"] == shrink
    assert ctx.validate(model)["validation_top1"] > 40


def test_another_architecture_is_refused(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not resnet_cifar"):
        PlainViT(config()).compress(make_context(data_root, tmp_path))


@pytest.mark.parametrize("setting, tokens", [("fine", 197), ("coarse", 50)])
def test_one_iteration_at_full_size(setting: str, tokens: int, tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, "imagenet/deit_s", "vit", setting)
    model: Any = PlainViT(PlainViT.Config(shrink={"fine": 1, "coarse": 2}[setting])).compress(ctx)
    assert model.positions.shape == (1, tokens, 384)
