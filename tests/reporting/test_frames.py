"""Tests of the helpers on data frames."""

import pandas as pd

from compressbench.reporting.frames import each, of_group
from compressbench.reporting.groups import Group

TABLE = pd.DataFrame({
    "dataset": ["digits", "digits", "photographs"], "model": ["vgg", "resnet", "vgg"], "quality": [1.0, 2.0, 3.0],
})  # fmt: skip


def test_rows_are_named_tuples_in_order() -> None:
    assert [(row.model, row.quality) for row in each(TABLE)] == [("vgg", 1.0), ("resnet", 2.0), ("vgg", 3.0)]


def test_a_group_has_the_rows_of_its_data_set_and_its_model() -> None:
    assert list(of_group(TABLE, Group("digits", "vgg", (), {})).quality) == [1.0]
    assert of_group(TABLE, Group("photographs", "resnet", (), {})).empty
