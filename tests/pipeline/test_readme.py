"""The front page: what it says runs as it stands."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.pipeline.conftest import snakemake

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_read_in_three_minutes() -> None:
    assert len(re.sub(r"<!--.*?-->", "", TEXT, flags=re.DOTALL).split()) <= 900


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.pipeline
def test_the_method_that_it_shows_runs(project: Path) -> None:
    config, code = (re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[0] for language in ("yaml", "python"))
    assert len([line for line in (config + code).splitlines() if line]) <= 30
    folder = project / "methods/mine"
    folder.mkdir()
    for name, content in (("config.yaml", config), ("method.py", code), ("__init__.py", "")):
        (folder / name).write_text(content, encoding="utf-8")
    process = snakemake(project, "--config", "scale=smoke", "methods=[mine,dense]")
    assert process.returncode == 0, process.stderr[-3000:]
    tables = [pd.read_csv(path) for path in (project / "results/smoke/report/tables").glob("comparison_*.csv")]
    (row,) = pd.concat(tables).query("method == 'mine'").itertuples()
    assert row.setting == "p50" and 0.45 < row.density < 0.55
