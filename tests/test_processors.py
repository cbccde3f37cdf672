"""A seed is the same face everywhere, and tests do not lean on what one processor happens to answer.

Numerical libraries choose their routines by the processor. These tests make them choose as on others: OpenBLAS by
OPENBLAS_CORETYPE, PyTorch by ATEN_CPU_CAPABILITY, our kernel by MESHGAN_KERNEL ("none" is PyTorch's operations alone).
"""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import everywhere
from meshgan.nn import kernel

HERE = Path(__file__).parent
AVX512 = "avx512f" in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else "")
SAME_MM, SAME_CORPUS_MM = 0.01, 1e-3
SUBSET = ("geometry/test_decomposition.py", "model/test_pca.py", "studio/test_models.py", "studio/test_sliders.py")


def processor(*needs: str, **settings: str) -> object:
    """An environment, skipped with a reason where this processor cannot pretend to be that one, or is it."""
    there = {"AVX-512": AVX512, "a compiled kernel": kernel.load("base") is not None}
    missing = [need for need in needs if not there[need]]
    name = "-".join(f"{key.split('_')[-1].lower()}-{value}" for key, value in settings.items())
    reason = f"this processor, or this installation, has no {' and no '.join(missing)}"
    return pytest.param(settings, id=name, marks=pytest.mark.skipif(bool(missing), reason=reason))


PROCESSORS = [
    processor(OPENBLAS_CORETYPE="Haswell", ATEN_CPU_CAPABILITY="avx2"),
    processor("AVX-512", OPENBLAS_CORETYPE="SkylakeX"),
    processor(ATEN_CPU_CAPABILITY="default", OPENBLAS_CORETYPE="Nehalem"),
    processor("a compiled kernel", MESHGAN_KERNEL="base"),
    processor("AVX-512", "a compiled kernel", MESHGAN_KERNEL="avx2"),
    processor(MESHGAN_KERNEL="none"),
]


def faces(path: Path, settings: Mapping[str, str], *tests: Path | str) -> dict[str, np.ndarray]:
    """The faces of `everywhere.py` under `settings`, in a process that then runs the tests too."""
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, HERE / "everywhere.py", path, *tests]
    done = subprocess.run(command, env=os.environ | quiet | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with np.load(path) as found:
        return dict(found)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return faces(tmp_path_factory.mktemp("here") / "faces.npz", {})


@pytest.mark.parametrize("settings", PROCESSORS)
def test_a_seed_is_the_same_face_and_the_same_tests_pass(
    settings: dict[str, str], here: dict[str, np.ndarray], tmp_path: Path
) -> None:
    elsewhere = faces(tmp_path / "faces.npz", settings, *(HERE / file for file in SUBSET))
    assert elsewhere.keys() == here.keys()
    apart = {name: float(np.abs(elsewhere[name] - here[name]).max()) for name in here}
    print(settings, {name: f"{mm:.1e}" for name, mm in apart.items()})
    assert max(apart.values()) < SAME_MM, apart
    assert len({name for name in here if np.ptp(here[name]) > 1}) == len(here)  # faces, not zeros


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an old x86-64 processor is what is pretended")
def test_corpora_are_those_of_an_old_processor(tmp_path: Path) -> None:
    """BLAS for SSE alone, numpy without AVX2 and FMA, and numba's code for any x86-64."""
    old = {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3", "NUMBA_CPU_NAME": "generic"}
    elsewhere, here = faces(tmp_path / "faces.npz", old, "corpora"), everywhere.corpora()
    apart = {name: float(np.abs(elsewhere[name] - here[name]).max()) for name in here}
    print({name: f"{mm:.1e}" for name, mm in apart.items()})
    assert 0 < max(apart.values()) < SAME_CORPUS_MM, apart
