"""The papers' numbers: beside the measured ones, and against those recomputed without training."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from compressbench.errors import UserError
from compressbench.files import read_json
from compressbench.reporting.groups import Group
from compressbench.reporting.shapes import damage

if TYPE_CHECKING:
    from compressbench.config import Declaration

COLUMNS = ["dataset", "model", "setting", "metric", "value", "source"]
COUNT_COLUMNS = ["method", "model", "setting", "metric", "value"]
DENSE_SETTINGS = ("dense", "full_precision", "fp", "float", "baseline")


def folder_of(methods_root: Path, method: str, declarations: Mapping[str, "Declaration"]) -> Path:
    """methods/NAME or methods/baselines/NAME."""
    return methods_root / "baselines" / method if declarations[method].is_baseline else methods_root / method


def read_published(methods_root: Path, declarations: Mapping[str, "Declaration"]) -> pd.DataFrame:
    """Every published.csv, all columns as text (the number of printed digits matters), with a column `method`."""
    frames = []
    for method in declarations:
        path = folder_of(methods_root, method, declarations) / "published.csv"
        if not path.exists():
            continue
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} is no table: {str(error).strip()}; put text with commas between quotes, and save it as UTF-8."
            ) from None
        if list(frame.columns) != COLUMNS:
            raise UserError(f"{path}: the first line must be {','.join(COLUMNS)}, not {','.join(frame.columns)}.")
        frames.append(frame.assign(method=method))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS, "method"])


def published_quality(published: pd.DataFrame, group: Group, method: str, setting: str) -> str:
    """The paper's nearest result in words, `ResNet-50, ImageNet: 77.0 → 72.45`; a dash without one at this setting."""
    own = published[(published.method == method) & (published.metric == group.metric)]
    rows = own[own.setting == setting]
    if rows.empty:
        rows = own[own.setting == group.levels[method, setting].name]
    if rows.empty:
        return "–"
    model, dataset = (rows[column].str.lower().str.replace("-", "") for column in ("model", "dataset"))
    alike = model.str.startswith(group.model.split("_")[0])
    row = rows.iloc[int((4 * (model == group.model) + 2 * alike + (dataset == group.dataset)).argmax())]
    dense = own[own.setting.isin(DENSE_SETTINGS) & (own.model == row.model) & (own.dataset == row.dataset)]
    before = f"{dense.iloc[0].value} → " if len(dense) else ""
    return f"{row.model}, {row.dataset}: {before}{row.value}"


def counts_table(path: Path, published: pd.DataFrame) -> pd.DataFrame:
    """The counts of counts.json beside the published values: `ok` when they agree to the last printed digit.

    Columns: COUNT_COLUMNS with `published`, `recomputed`, `difference`, `verdict`, `source`.
    """
    columns = ["method", "model", "setting", "metric", "published", "recomputed", "difference", "verdict", "source"]
    if not path.exists():
        return pd.DataFrame(columns=columns)
    content = read_json(path)
    if reason := damage("counts.json", content):
        raise UserError(f"{path} is damaged ({reason}); delete it and recompute the published counts.")
    recomputed = pd.DataFrame(content, columns=COUNT_COLUMNS)
    recomputed = recomputed.rename(columns={"value": "recomputed"})
    keys = ["method", "model", "setting", "metric"]
    printed = published.rename(columns={"value": "published"})[[*keys, "published", "source"]].drop_duplicates(keys)
    table = recomputed.merge(printed, on=keys, how="left")
    compared = [_compare(p, r) for p, r in zip(table.published, table.recomputed, strict=True)]
    table["difference"], table["verdict"] = [c[0] for c in compared], [c[1] for c in compared]
    return table.fillna({"published": "", "source": ""})[columns]


def _compare(published: object, recomputed: float) -> tuple[float, str]:
    """(recomputed - published, verdict). Tolerance: half a unit of the last printed digit (74.5e3: half of 0.1e3)."""
    try:
        printed = Decimal(str(published).strip())
    except InvalidOperation:
        return float("nan"), "not published"
    if not printed.is_finite():
        return float("nan"), "not published"
    difference = recomputed - float(printed)
    exponent = printed.as_tuple().exponent
    tolerance = 0.5 * 10.0 ** int(exponent)
    return difference, "ok" if abs(difference) <= tolerance * (1 + 1e-6) else "differs"
