"""The entry to all data sets: each is read with the options that its task knows."""

from dataclasses import replace
from pathlib import Path

import pytest

from compressbench import data
from compressbench.errors import UserError


@pytest.mark.parametrize(
    ("name", "options"),
    [("digits", {}), ("photographs", {"upscaling": 4}), ("digits_sessions", {"seed": 7})],
)
def test_a_loader_gets_the_options_of_its_task(
    name: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(data.DATASETS[name], load=lambda *arguments, **given: (arguments, given))
    monkeypatch.setitem(data.DATASETS, name, entry)
    found = data.load(name, "data", limit=12, upscaling=4, seed=7)  # type: ignore[arg-type]
    assert found == ((Path("data"), 12), options)


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(UserError, match="unknown data set 'mnist'"):
        data.load("mnist", Path("data"))


def test_what_has_no_sessions_has_no_protocol() -> None:
    assert data.protocol("digits_sessions").session_len == (6, 2, 2)
    with pytest.raises(ValueError, match="digits has no sessions"):
        data.protocol("digits")
