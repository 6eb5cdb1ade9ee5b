import os
import subprocess
import sys

import pytest
import torch

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


def test_a_gpu_is_described_only_once_it_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.accelerator() is None
    for name, value in (
        ("is_initialized", True), ("get_device_name", "Some GPU"), ("device_count", 4), ("get_device_capability", (9, 0)),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    found = machine.accelerator()
    assert found is not None
    assert (found["gpu"], found["gpus"], found["compute_capability"]) == ("Some GPU", 4, "9.0")
    assert (found["cuda"], found["cudnn"]) == ("13.0", 91002)
    assert found["deterministic"].keys() == {"algorithms", "cudnn", "cublas_workspace"}
