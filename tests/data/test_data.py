"""The entry to all data sets: each is read with the options that its task knows."""

from pathlib import Path

import pytest

from compressbench import data
from compressbench.errors import UserError


@pytest.mark.parametrize(
    ("name", "options"),
    [("digits", {}), ("photographs", {"scale": 4}), ("digits_sessions", {"seed": 7})],
)
def test_a_loader_gets_the_options_of_its_task(
    name: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(data._LOADERS, name, lambda *arguments, **given: (arguments, given))
    found = data.load(name, "data", limit=12, scale=4, seed=7)  # type: ignore[arg-type]
    assert found == ((Path("data"), 12), options)


def test_every_data_set_but_those_without_a_reader_can_be_loaded() -> None:
    assert data._LOADERS.keys() == data.DATASETS.keys()
    with pytest.raises(UserError, match="there is no data set 'mnist'"):
        data.load("mnist", Path("data"))
