"""Builds the CPU kernels with the package: one library that holds a build per instruction set.

Without a C++ compiler the package installs all the same, and says at run time that its sparse kernels are missing.
"""

import platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = "compressbench/kernels/native"
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi"]
SOURCES = [f"{NATIVE}/block_sparse.cpp", f"{NATIVE}/binary.cpp"]
BUILDS = {"portable": ["-DVECTOR_BYTES=16"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    BUILDS["avx2"] = ["-DVECTOR_BYTES=32", "-mavx2", "-mfma"]
    BUILDS["avx512"] = ["-DVECTOR_BYTES=64", "-mavx512f", "-mavx512vl", "-mavx512vpopcntdq", "-mfma", "-mprefer-vector-width=512"]


class BuildKernels(build_ext):
    """Compiles the same source once per instruction set, which setuptools alone cannot."""

    def build_extension(self, ext: Extension) -> None:
        objects = self.objects([f"{NATIVE}/dispatch.cpp"], "dispatch", ["-DWITH_X86"] if len(BUILDS) > 1 else [])
        for name, flags in BUILDS.items():
            objects += self.objects(SOURCES, name, [*flags, f"-DISA={name}"])
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=["-fopenmp"], target_lang="c++"
        )

    def objects(self, sources: list[str], name: str, flags: list[str]) -> list[str]:
        """Compile into a folder of their own: the same source gives one object per instruction set."""
        folder = f"{self.build_temp}/{name}"
        return self.compiler.compile(sources, output_dir=folder, include_dirs=[NATIVE], extra_postargs=[*FLAGS, *flags])


setup(
    ext_modules=[Extension("compressbench.kernels._native", [f"{NATIVE}/dispatch.cpp"], language="c++", optional=True)],
    cmdclass={"build_ext": BuildKernels},
)
