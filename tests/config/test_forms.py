"""Tests of the forms of configuration: which values go together, and what a stage reads of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from compressbench.config import Pair, Recipe, Scale, Setting

RECIPE: dict[str, Any] = {"epochs": 2, "lr": 0.1}
PAIR: dict[str, Any] = {"architecture": "plain", "scratch": RECIPE, "pretrain": RECIPE, "finetune": RECIPE}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"halve_every": 2}, "halve_every goes with schedule: halve"),
        ({"schedule": "halve"}, "halve_every goes with schedule: halve"),
        ({"schedule": "step"}, "milestones go with schedule: step"),
        ({"milestones": [1]}, "milestones go with schedule: step"),
        ({"schedule": "cosine_by_epoch", "warmup_epochs": 2}, "fewer warmup_epochs than epochs"),
    ],
)
def test_keys_of_a_schedule_go_with_it_only(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(RECIPE | changes)


def test_a_form_cannot_be_changed_and_knows_all_of_its_keys() -> None:
    recipe = Recipe.model_validate(RECIPE)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.lr = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe.model_validate(RECIPE | {"speed": 1})


def test_a_stage_reads_the_recipes_that_it_has_and_not_the_teacher() -> None:
    pair = Pair.model_validate(PAIR | {"teacher": "digits/large", "images": 100})
    workload = pair.workload("pretrain")
    assert workload.pretrain == pair.pretrain and workload.images == 100
    assert workload.scratch is None and workload.finetune is None
    assert not hasattr(workload, "teacher")


def test_a_patch_that_a_recipe_does_not_have_is_no_part_of_it() -> None:
    assert "patch" not in Recipe.model_validate(RECIPE).model_dump()
    assert Recipe.model_validate(RECIPE | {"patch": 32}).model_dump()["patch"] == 32


def test_a_pair_that_only_teaches_is_in_use() -> None:
    pairs = {"digits/small": PAIR | {"teacher": "digits/large"}, "digits/large": PAIR}
    scale = {"seeds": [0], "comparisons": {"distillation": ["digits/small"]}, "pairs": pairs}
    assert set(Scale.model_validate(scale).pairs) == set(pairs)
    pairs["digits/small"] = PAIR
    with pytest.raises(ValidationError, match=r"pairs\.digits/large is in no comparison and teaches no other pair"):
        Scale.model_validate(scale)


def test_hyperparameters_are_the_keys_that_describe_nothing() -> None:
    setting = Setting.model_validate({"variant": "2:4", "level": {"sparsity": 0.5}, "n": 2, "m": 4})
    assert setting.hyperparameters == {"n": 2, "m": 4}
    assert Setting.model_validate({}).hyperparameters == {}
