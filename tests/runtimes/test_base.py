"""Tests of what all runtimes share."""

import pytest
from torch import nn

from compressbench.runtimes.base import Runtime, last_line


def test_a_runtime_has_to_prepare_and_to_describe() -> None:
    class Half(Runtime):
        name = "half"

        def describe(self) -> dict[str, str]:
            return {}

    with pytest.raises(TypeError, match="prepare"):
        Half()  # type: ignore[abstract]


def test_a_runtime_objects_to_nothing_unless_it_says_so() -> None:
    class Any(Runtime):
        name = "any"

        def prepare(self, model: nn.Module, example: object) -> object:  # type: ignore[override]
            return None

        def describe(self) -> dict[str, str]:
            return {}

    assert Any().objection(nn.Identity()) == ""


def test_the_reason_is_the_last_line_of_a_message_or_the_kind_of_the_error() -> None:
    assert last_line(RuntimeError("Traceback\n  somewhere\n\nit does not fit\n  \n")) == "it does not fit"
    assert last_line(RuntimeError()) == "RuntimeError"
