import os
import subprocess
import sys

from compressbench import machine


def test_description_names_the_processor_and_has_at_least_one_core():
    description = machine.describe()
    assert description["cpu"]
    assert 1 <= description["cores"] <= (os.cpu_count() or 1)
    assert set(description["isa"]) <= set(machine.ISA_FLAGS)


def test_description_works_without_cpuinfo(monkeypatch):
    monkeypatch.setattr(machine, "_cpuinfo", dict)
    description = machine.describe()
    assert description["cpu"]
    assert description["isa"] == []


def test_description_imports_nothing_heavy():
    code = "import sys; from compressbench import machine; machine.describe(); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8").stdout
        == "False\n"
    )
