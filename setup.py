"""Builds the CPU kernels with the package: one library that holds a build per instruction set.

Without a C++ compiler the package installs all the same, and says at run time that its kernels are missing.
"""

import platform
import subprocess

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = "compressbench/kernels/native"
SOURCES = [f"{NATIVE}/{name}.cpp" for name in ("convolution", "depthwise", "binary")]
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"]
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", *WARNINGS]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512vpopcntdq", "-mfma", "-mprefer-vector-width=512"]
BUILDS = {"portable": ["-DVECTOR_BYTES=16"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    BUILDS |= {"avx2": ["-DVECTOR_BYTES=32", "-mavx2", "-mfma"], "avx512": ["-DVECTOR_BYTES=64", *AVX512]}


class BuildKernels(build_ext):
    """Compiles the same sources once per instruction set, which setuptools alone cannot."""

    def build_extension(self, ext: Extension) -> None:
        path = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(self.objects(), path, extra_postargs=["-fopenmp"], target_lang="c++")

    def objects(self, *extra: str) -> list[str]:
        """Every build in a folder of its own, and the dispatcher between them."""
        objects = self.compiled([f"{NATIVE}/dispatch.cpp"], "dispatch", *["-DWITH_X86"][: len(BUILDS) - 1], *extra)
        for name, flags in BUILDS.items():
            objects += self.compiled(SOURCES, name, *flags, f"-DISA={name}", *extra)
        return objects

    def compiled(self, sources: list[str], name: str, *flags: str) -> list[str]:
        return self.compiler.compile(
            sources, output_dir=f"{self.build_temp}/{name}", include_dirs=[NATIVE], extra_postargs=[*FLAGS, *flags]
        )


class Sanitize(BuildKernels):
    """`python setup.py sanitize`: the kernels against plain loops under the address and undefined-behaviour sanitizers."""

    def build_extension(self, ext: Extension) -> None:
        ext.optional = False
        flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g"]
        self.build_temp += "-sanitize"
        objects = self.objects(*flags) + self.compiled(["tests/kernels/native_test.cpp"], "test", *flags)
        self.compiler.link_executable(
            objects, "native_test", self.build_temp, extra_postargs=["-fopenmp", *flags], target_lang="c++"
        )
        subprocess.run([f"{self.build_temp}/native_test"], check=True)

    def copy_extensions_to_source(self) -> None:
        """Nothing to install."""


optional = Extension("compressbench.kernels._native", [f"{NATIVE}/dispatch.cpp"], language="c++", optional=True)
setup(ext_modules=[optional], cmdclass={"build_ext": BuildKernels, "sanitize": Sanitize})
