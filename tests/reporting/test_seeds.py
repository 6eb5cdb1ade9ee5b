"""Tests of the table of single seeds."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from compressbench.errors import UserError
from compressbench.reporting.collect import collect
from compressbench.reporting.seeds import KEY, read_seeds, seeds_table, write_seeds
from tests.reporting.seed_rows import OPTG, rows


def test_the_table_has_every_number_of_metrics_and_records_and_no_time(report: SimpleNamespace, chosen: list) -> None:
    table = seeds_table(collect(report.results, "desk", report.runs))
    assert not table.duplicated(KEY).any()
    folder = report.results / "desk" / OPTG / "seed1"
    metrics = json.loads((folder / "evaluate/metrics.json").read_text(encoding="utf-8"))
    own = table[(table.method == "optg") & (table.setting == "p98") & (table.seed == 1)].set_index("name").value
    quality = metrics.pop("quality")
    assert own.to_dict() == metrics | {"quality.top1": quality["top1"]}
    photograph = table[(table.method == "ddtb") & (table.setting == "b2") & (table.seed == 0)].set_index("name").value
    assert {"quality.psnr", "quality.ssim", "quality.images.astronaut.psnr"} <= set(photograph.index)
    images = table[(table.method == "intraq") & (table.setting == "w4a4")].set_index(["seed", "name"]).value
    assert images[1, "synthesize.diversity_within_class"] == 0.5
    assert not table.name.str.contains("wall|latency|speedup|_ms").any()


def test_a_written_table_has_all_digits(tmp_path: Path) -> None:
    table = rows(0, quality=0.1 + 0.2, kept=math.nan)
    again = read_seeds(write_seeds(table, tmp_path / "seeds.csv"))
    pd.testing.assert_frame_equal(again, table)
    assert again.value[0] == 0.30000000000000004
    assert ",4089184\n" in (tmp_path / "seeds.csv").read_text(encoding="utf-8")


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    for content in ("", "dataset,seed,value\na,0,1\n", "seed,value\nzero,one\n"):
        (tmp_path / "seeds.csv").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"seeds\.csv cannot be read .* restore it"):
            read_seeds(tmp_path / "seeds.csv")
