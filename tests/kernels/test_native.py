"""The library of kernels: what is chosen, and what happens where it cannot be built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compressbench.errors import UserError
from compressbench.kernels import native
from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.pruning.blocks import encode_bsr
from tests.conftest import ROOT, run_python


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
        assert native.best_isa() is native.best_isa("packed_binary") is native.Isa.TORCH
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
    call = native.program([step])
    del step, blocks
    junk = [torch.full((16, 32, 32), torch.nan) for _ in range(50)]
    call()
    torch.testing.assert_close(out, expected)
    assert junk


def test_a_kernel_that_the_library_lacks_says_what_to_do() -> None:
    with pytest.raises(UserError, match="do not have cb_no_such_kernel_portable: install compressbench again"):
        native.kernel("no_such_kernel", native.Isa.PORTABLE)


SOURCE = """
#include "isa.h"

struct cb_negation {
  int32_t values;
};

KERNEL(void, negation)(const cb_step *step, int32_t) {
  const int64_t count = static_cast<int64_t>(step->batch) * static_cast<const cb_negation *>(step->layer)->values;
  const float *x = static_cast<const float *>(step->x);
  float *y = static_cast<float *>(step->y);
  for (int64_t i = 0; i < count; ++i) y[i] = -x[i];
}

KERNEL(int, negation_width)() { return VECTOR_BYTES; }

KERNEL(int, negation_runs)() { return VECTOR_BYTES < 64; }
"""
FACE = '''
"""-x."""

import ctypes

from torch import Tensor, empty_like

from compressbench.kernels.native import Isa, Step, kernel, program

WIDTH = ctypes.CFUNCTYPE(ctypes.c_int)


class Negation(ctypes.Structure):
    """`cb_negation` of negation.cpp."""

    _fields_ = (("values", ctypes.c_int32),)


def negate(x: Tensor, isa: Isa) -> tuple[Tensor, int]:
    """(-x, bytes of a vector)."""
    y = empty_like(x)
    program([Step.on(kernel("negation", isa), Negation(x[0].numel()), x, y)])()
    return y, kernel("negation_width", isa, WIDTH)()
'''
CALL = """
import torch
from compressbench.kernels import native
from compressbench.kernels.negation import negate

x = torch.randn(3, 5)
for isa in native.Isa:
    if native.Isa.TORCH < isa <= native.best_isa():
        y, width = negate(x, isa)
        assert torch.equal(y, -x)
        print(isa.name, width, isa <= native.best_isa("negation"))
"""


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
def test_a_source_and_its_face_in_the_folders_are_a_kernel_in_every_build(library: Path) -> None:
    (library / "compressbench/kernels/native/negation.cpp").write_text(SOURCE, encoding="utf-8")
    (library / "compressbench/kernels/negation.py").write_text(FACE, encoding="utf-8")
    run_python(library, "setup.py", "--quiet", "build_ext", "--build-lib", ".", "--build-temp", "build")
    widths = {native.Isa.PORTABLE: 16, native.Isa.AVX2: 32, native.Isa.AVX512: 64}
    expected = [f"{isa.name} {width} {width < 64}" for isa, width in widths.items() if isa <= native.best_isa()]
    assert run_python(library, "-c", CALL).splitlines() == expected
