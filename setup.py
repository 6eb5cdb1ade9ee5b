"""Builds the CPU kernels with the package: one library that holds a build of every kernel per instruction set.

Without a C++ compiler the package installs all the same, and says at run time that its kernels are missing.
"""

import platform
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("compressbench/kernels/native")
DISPATCH = NATIVE / "dispatch.cpp"
KERNELS = sorted(set(NATIVE.glob("*.cpp")) - {DISPATCH})
CHECKS = sorted(Path("tests/kernels/native").glob("*.cpp"))
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"]
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", *WARNINGS]
AVX512 = [f"-mavx512{part}" for part in ("f", "vl", "bw", "vnni", "vpopcntdq")] + ["-mfma", "-mprefer-vector-width=512"]
BUILDS = {"portable": ["-DVECTOR_BYTES=16"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    BUILDS |= {"avx2": ["-DVECTOR_BYTES=32", "-mavx2", "-mfma"], "avx512": ["-DVECTOR_BYTES=64", *AVX512]}


class BuildKernels(build_ext):
    """Compiles the same sources once per instruction set, which setuptools alone cannot."""

    def build_extension(self, ext: Extension) -> None:
        objects = self.compiled([DISPATCH], "dispatch")
        for isa in BUILDS:
            objects += self.compiled(KERNELS, isa, *for_isa(isa))
        path = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(objects, path, extra_postargs=["-fopenmp"], target_lang="c++")

    def compiled(self, sources: list[Path], folder: str, *flags: str) -> list[str]:
        """The object files, each build's in a folder of its own."""
        return self.compiler.compile(
            [str(source) for source in sources], output_dir=f"{self.build_temp}/{folder}", include_dirs=[str(NATIVE)],
            extra_postargs=[*FLAGS, *flags],
        )  # fmt: skip


class Sanitize(BuildKernels):
    """`python setup.py sanitize`: the kernels against plain loops under the address and undefined-behaviour sanitizers.

    Every file in tests/kernels/native is a program that checks one kernel, in each build that the processor runs.
    """

    def build_extension(self, ext: Extension) -> None:
        ext.optional = False
        flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g"]
        self.build_temp += "-sanitize"
        dispatch = self.compiled([DISPATCH], "dispatch", *flags)
        for isa in BUILDS:
            for check in self.compiled(CHECKS, isa, *for_isa(isa), *flags):
                program = check.removesuffix(".o")
                self.compiler.link_executable(
                    [*dispatch, check], program, extra_postargs=["-fopenmp", *flags], target_lang="c++"
                )
                subprocess.run([program], check=True)

    def copy_extensions_to_source(self) -> None:
        """Nothing to install."""


def for_isa(isa: str) -> list[str]:
    """The flags of one build."""
    return [*BUILDS[isa], f"-DISA={isa}"]


optional = Extension("compressbench.kernels._native", [str(DISPATCH)], language="c++", optional=True)
setup(ext_modules=[optional], cmdclass={"build_ext": BuildKernels, "sanitize": Sanitize})
