"""Every method's result of the smoke scale leaves the suite as a file."""

from pathlib import Path

import pytest

from compressbench.errors import UserError
from compressbench.plan import Plan, Run
from compressbench.stages.export import export_run
from tests.pipeline.conftest import Smoke

pytestmark = pytest.mark.pipeline

WITHOUT_ONNX = {"bicubic"}  # ONNX has no bicubic enlargement with antialiasing


def sentences(smoke: Smoke, run: Run, form: str, out: Path) -> list[str]:
    return list(export_run(smoke.root, run, form, out / run.name / f"net.{form}"))


def test_every_result_becomes_an_onnx_file(smoke: Smoke, tmp_path: Path) -> None:
    refused, integers = set(), set()
    for run in Plan(smoke.root, "smoke").runs:
        try:
            written = sentences(smoke, run, "onnx", tmp_path)
        except UserError as error:
            assert "no ONNX graph" in str(error)
            refused.add(run.method)
        else:
            assert any("outputs differ by at most" in sentence for sentence in written), run.name
            integers |= {run.method for sentence in written if "(int8, " in sentence}
    assert refused == WITHOUT_ONNX
    assert {"minmax", "clipping", "intraq", "fdda", "lsq", "df_mpc"} <= integers


def test_a_result_of_every_family_becomes_an_exported_program(smoke: Smoke, tmp_path: Path) -> None:
    plan = Plan(smoke.root, "smoke")
    first = {plan.declarations[run.method].family: run for run in reversed(plan.runs)}
    for family, run in first.items():
        written = sentences(smoke, run, "torch", tmp_path)
        assert any("outputs differ by at most" in sentence for sentence in written), family
