"""The optional compiled kernel of the mesh convolutions: one shared library per instruction set, chosen at run time.

Everything else is in pyproject.toml. Without a compiler the package installs and works on its PyTorch path.
"""

import platform

from setuptools import Extension, setup

OPTIONS = ["-O3", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast"]
X86 = {"base": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}
INSTRUCTIONS = X86 if platform.machine().lower() in {"x86_64", "amd64"} else {"base": []}

setup(
    ext_modules=[
        Extension(
            f"meshgan.nn._chebyshev_{name}",
            ["src/meshgan/nn/chebyshev.cpp"],
            extra_compile_args=[*OPTIONS, *flags],
            optional=True,
        )
        for name, flags in INSTRUCTIONS.items()
    ]
)
