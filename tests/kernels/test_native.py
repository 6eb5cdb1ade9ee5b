"""The library of kernels: what is chosen, and what happens where it cannot be built."""

import os
import subprocess
import sys

import pytest
import torch

from compressbench.errors import UserError
from compressbench.kernels import native
from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.pruning.blocks import encode_bsr
from tests.conftest import ROOT


def test_a_build_without_a_compiler_succeeds_and_leaves_the_library_out(tmp_path) -> None:
    missing = {"CC": "no-such-compiler", "CXX": "no-such-compiler"}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | missing, capture_output=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "no-such-compiler" in done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_without_the_library_pytorch_stands_in_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_file", lambda: None)
    native.library.cache_clear()
    try:
        assert native.best_isa() is native.best_binary_isa() is native.Isa.TORCH
        assert "slow" in native.label(native.best_isa())
        with pytest.raises(UserError, match="install a C\\+\\+ compiler"):
            native.library()
    finally:
        native.library.cache_clear()


def test_a_build_that_the_processor_does_not_run_is_refused() -> None:
    with pytest.raises(ValueError, match="the AVX512 build does not run here: the best is AVX2"):
        native.runnable(native.Isa.AVX512, native.Isa.AVX2)
    assert native.runnable(None, native.Isa.AVX2) is native.Isa.AVX2


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_a_program_keeps_alive_what_it_points_to() -> None:
    weight, x, out = torch.randn(16, 16, 1, 1), torch.randn(1, 16, 32, 32), torch.empty(1, 16, 32, 32)
    expected = torch.nn.functional.conv2d(x, weight)
    blocks = encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), 8)
    step = BlockSparseConv2d(blocks, None, (16, 32, 32)).step(x.clone(), out)
    call = native.program(native.best_isa(), [step])
    del step, blocks
    junk = [torch.full((16, 32, 32), torch.nan) for _ in range(50)]
    call()
    torch.testing.assert_close(out, expected)
    assert junk
