"""The contract of a method: what it lacks is named, what it may leave out is empty."""

from typing import Any

import pytest

from compressbench.config import MethodConfig, Recipe, Workload, discovery
from compressbench.errors import UserError
from compressbench.method import Method, loading
from tests.conftest import ROOT


class OnlyCompresses(Method):
    def compress(self, ctx):  # type: ignore[no-untyped-def]
        return ctx


@pytest.mark.parametrize("stage", ["synthesize", "finetune"])
def test_a_stage_that_is_listed_but_not_written_is_named(stage: str) -> None:
    method = OnlyCompresses(MethodConfig())
    assert method.compress("context") == "context"
    with pytest.raises(
        UserError, match=f"OnlyCompresses has no function {stage}; write it, or take it out of `stages`"
    ):
        getattr(method, stage)(*["context", "model"][: 1 + (stage == "finetune")])


def test_a_method_fits_every_network_and_publishes_nothing_unless_it_says_so() -> None:
    assert OnlyCompresses(MethodConfig()).check(None) is None  # type: ignore[func-returns-value,arg-type]
    assert OnlyCompresses.published_counts() == OnlyCompresses.deployments() == []


def test_options_that_a_configuration_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="sparsity"):
        OnlyCompresses.Config(sparsity=0.5)


class InTurn(OnlyCompresses):
    def undivided(self) -> str:
        return "one image after the other"

    def uncompiled(self) -> str:
        return "every step is another one"


@pytest.mark.parametrize(
    ("pair", "recipe", "message"),
    [
        ({"processes": 2}, {}, "processes: .* cannot be divided: one image after the other; leave it out"),
        ({}, {"accumulate": 2}, "accumulate: .* cannot be divided: one image after the other; leave it out"),
        ({}, {"compile": True}, "compile: .* cannot be compiled: every step is another one; leave it out"),
    ],
)
def test_what_a_method_cannot_do_is_refused_with_its_reason(
    pair: dict[str, Any], recipe: dict[str, Any], message: str
) -> None:
    plain = Workload(architecture="plain", finetune=Recipe(epochs=1, lr=0.1))
    asked = Workload(architecture="plain", finetune=Recipe(epochs=1, lr=0.1, **recipe), **pair)
    InTurn(MethodConfig()).check_recipes(plain)
    OnlyCompresses(MethodConfig()).check_recipes(asked)
    with pytest.raises(UserError, match=message):
        InTurn(MethodConfig()).check_recipes(asked)


@pytest.mark.parametrize("refusal", ["undivided", "uncompiled"])
def test_the_documentation_names_every_method_that_refuses(refusal: str) -> None:
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    classes = {name: loading.method_class(ROOT, name) for name in discovery.files(ROOT)}
    refusing = {name for name, own in classes.items() if getattr(own, refusal) is not getattr(Method, refusal)}
    assert refusing and {name for name in refusing if f"`{name}`" not in page} == set()
