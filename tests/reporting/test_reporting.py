"""Tests of the package itself."""

import subprocess
import sys

from tests.conftest import ROOT


def test_imports_neither_torch_nor_methods() -> None:
    heavy = ("torch", "methods", "mlflow")
    code = f"import sys, compressbench.reporting.writer; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True, encoding="utf-8")
    assert done.stdout.strip() == "[]"
