"""The facade: few names, each where it says, and nothing heavy until one is used."""

import subprocess
import sys

import pytest

import meshgan


def test_every_name_is_there():
    assert len(meshgan.__all__) <= 15
    for name in meshgan.__all__:
        assert getattr(meshgan, name) is not None
    assert set(dir(meshgan)) == set(meshgan.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = meshgan.magic


def test_importing_loads_nothing_heavy():
    check = "import sys, meshgan; print([m for m in ('torch', 'numpy', 'matplotlib', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
