"""The front page: what it says runs as it stands."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.pipeline.dropped_in import README


def test_it_is_read_in_three_minutes() -> None:
    assert len(re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL).split()) <= 900


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.pipeline
def test_the_method_that_it_shows_runs(dropped_in: Path) -> None:
    shown = "".join(
        (dropped_in / "methods/mine" / name).read_text(encoding="utf-8") for name in ("config.yaml", "method.py")
    )
    assert len([line for line in shown.splitlines() if line]) <= 30
    tables = [pd.read_csv(path) for path in (dropped_in / "results/smoke/report/tables").glob("comparison_*.csv")]
    (row,) = pd.concat(tables).query("method == 'mine'").itertuples()
    assert row.setting == "p50" and 0.45 < row.density < 0.55
