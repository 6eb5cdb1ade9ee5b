"""The table of single seeds: every number that must be equal when a run is repeated."""

from pathlib import Path

import pandas as pd

from compressbench.errors import UserError
from compressbench.files import write_text
from compressbench.reporting.collect import AT, Results

CELL = ["dataset", "model", "method", "setting", "point", "name"]
"""What all seeds of a number share; `point` is empty where a model has no operating points."""
KEY = [*CELL[:-1], "seed", "name"]
COLUMNS = [*KEY, "value"]


def seeds_table(results: Results) -> pd.DataFrame:
    """KEY and `value` of `Results.numbers`, in the order of the plan."""
    table = results.numbers
    settings, _, points = zip(*(s.partition(AT) for s in table.setting), strict=True) if len(table) else ((), (), ())
    return table.assign(setting=settings, point=points)[COLUMNS].astype({"seed": int, "value": float})


def write_seeds(table: pd.DataFrame, path: Path) -> Path:
    """A CSV file in which every value has all of its digits: reading it gives the same floating-point numbers."""
    exact = table.assign(value=[repr(float(v)).removesuffix(".0") for v in table.value])
    write_text(path, exact.to_csv(index=False, lineterminator="\n"))
    return path


def read_seeds(path: Path) -> pd.DataFrame:
    """What `write_seeds` wrote; UserError when the file is damaged."""
    types = {name: "int64" if name == "seed" else "str" for name in KEY}
    try:
        table = pd.read_csv(path, dtype=types | {"value": "float64"}, keep_default_na=False, na_values={"value": ["nan"]},
                            float_precision="round_trip")  # fmt: skip
        return table[COLUMNS]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as a table of single seeds ({error}); restore it from version control."
        ) from None
