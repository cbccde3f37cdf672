"""The optional compiled code. Everything else is in pyproject.toml.

The kernel of the mesh convolutions is one shared library per instruction set, chosen at run time; another library has a
few functions that verbs need at once, before Numba could have been imported. What cannot be compiled is left out: the
package installs all the same, computes by PyTorch and Numba, and says why. MESHGAN_SANITIZE=address or =thread builds
libraries that watch themselves, for `make sanitize`.
"""

import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = "src/meshgan/nn/native"
OPTIONS = ["-O3", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast"]
# x86-64-v3 and -v4, spelt out: GCC knows these names from its version 11 on, the options for much longer.
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mmovbe"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"]
X86 = {"base": [], "avx2": AVX2, "avx512": AVX512}
EXACT = ["-O3", "-std=c++17", "-fno-math-errno", "-ffp-contract=off"]  # as Numba computes, to the bit
INSTRUCTIONS = X86 if platform.machine().lower() in {"x86_64", "amd64"} else {"base": []}
SANITIZER = os.environ.get("MESHGAN_SANITIZE")
WATCHED = [f"-fsanitize={SANITIZER}", "-fno-omit-frame-pointer", "-g", "-O1"] if SANITIZER else []


class BuildKernel(build_ext):
    """Says where the kernel would have been why it is not: pip shows nobody what a compiler says."""

    def build_extension(self, extension: Extension) -> None:
        note = Path(self.get_ext_fullpath(extension.name)).with_name("kernel-not-built.txt")
        try:
            super().build_extension(extension)
        except Exception as error:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{error}\n", encoding="utf-8")
            raise
        note.unlink(missing_ok=True)


setup(
    cmdclass={"build_ext": BuildKernel},
    ext_modules=[
        Extension(
            f"meshgan.nn._chebyshev_{name}",
            [f"{NATIVE}/chebyshev.cpp"],
            depends=sorted(str(header) for header in Path(NATIVE).glob("*.h")),
            extra_compile_args=[*OPTIONS, *flags, *WATCHED],
            extra_link_args=WATCHED,
            optional=not SANITIZER,
        )
        for name, flags in INSTRUCTIONS.items()
    ]
    + [
        Extension(
            "meshgan._kernels",
            ["src/meshgan/native/kernels.cpp"],
            extra_compile_args=[*EXACT, *WATCHED],
            extra_link_args=WATCHED,
            optional=not SANITIZER,
        )
    ],
)
