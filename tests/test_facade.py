"""The facade: few names, each where it says, and nothing heavy until one is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_library_speaks_of_its_own_parameters():
    """The command line words them as options (`cli.main.in_options`): in Python there are none."""
    source = Path(meshgan.__file__).parent
    for path in sorted(source.rglob("*.py")):
        if path.relative_to(source).parts[0] in ("cli", "bench"):
            continue
        tree = ast.parse(path.read_bytes())
        raised = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
        for words in (node.value for one in raised for node in ast.walk(one) if isinstance(node, ast.Constant)):
            text = re.sub(r"`meshgan [^`]*`|pip install [^;]*", "", str(words))  # whole commands
            assert not re.search(r"(^|[\s`(])--[a-z]", text), f"{path.name}: {words}"
