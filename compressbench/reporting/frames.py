"""Two small helpers on data frames."""

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from compressbench.reporting.groups import Group


def each(table: pd.DataFrame) -> list[Any]:
    """The rows as named tuples."""
    return list(table.itertuples())


def of_group(table: pd.DataFrame, group: "Group") -> pd.DataFrame:
    """The rows of a group's (dataset, model)."""
    return table[(table.dataset == group.dataset) & (table.model == group.model)]
