"""The facade: few names, each where it says, and nothing heavy until one is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import meshgan
from meshgan.data.corpora.basis import face_template
from meshgan.errors import UsageError


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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model, faces: meshgan.evaluate("identity", faces), "`evaluate` takes a model"),
        (lambda model, faces: meshgan.evaluate(model, "faces"), "and a FaceSet"),
        (lambda model, faces: meshgan.train("quick", "faces", "run"), "`faces` should be a FaceSet"),
        (lambda model, faces: meshgan.rig("face.ply"), "should be a mesh"),
        (lambda model, faces: meshgan.rig(3), "should be a mesh"),
        (lambda model, faces: meshgan.rig(face_template(), "apple"), "no rig 'apple'"),
        (lambda model, faces: meshgan.FaceSet.create(faces.vertices, "template.ply"), "`template` should be a mesh"),
        (
            lambda model, faces: meshgan.FaceSet.create(faces.vertices, faces.template, ["a"]),
            "`labels` should be columns",
        ),
    ],
)
def test_what_is_not_of_the_kind_that_a_function_takes_is_told(call, words, tiny_run, tiny_faces):
    with pytest.raises(UsageError, match=words):
        call(meshgan.load_model(tiny_run), tiny_faces)
