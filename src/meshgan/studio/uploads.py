"""What a visitor brings along: a mesh to fit, or a code. Files from outside are hostile until proven otherwise."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meshgan.arrays import Codes, Faces, Floats
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.align import rigid, similarity
from meshgan.geometry.files import MILLIMETRES, READERS, read_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.model.compose import sizes
from meshgan.model.face_model import check_connectivity
from meshgan.registration.models import default_template
from meshgan.registration.register import register
from meshgan.studio.models import StudioModel
from meshgan.studio.state import IDENTITY, Part

MOST_BYTES = 64 * 2**20
MOST_JSON_BYTES = 2**20
UNKNOWN = "unknown"
UNITS = (*MILLIMETRES, UNKNOWN)
HUMAN = (0.5, 2.0)  # a face's size against the template's
ROUNDS = 2  # of fitting identity and expression in turn


@dataclass(frozen=True, eq=False)
class Upload:
    """A mesh, its file's name as it is safe to print, and its unit; in mm already, unless the unit is unknown."""

    name: str
    mesh: Mesh
    unit: str


@dataclass(frozen=True, eq=False)
class Fitted:
    """A mesh (V, 3) in mm, aligned with the template, and the codes nearest to it."""

    target: Faces
    identity: Codes
    expression: Codes | None


def read_upload(name: str, content: bytes, unit: str) -> Upload:
    """The mesh of an uploaded file. Raises `MeshganError` with a sentence that names the file."""
    ending, shown = Path(name).suffix.lower()[:8], _shown(name)
    if len(content) > MOST_BYTES:
        raise UsageError(f"{shown} is larger than {MOST_BYTES // 2**20} MB; reduce it first.")
    if ending not in READERS:
        raise UsageError(f"{shown}: meshes are read from {', '.join(READERS)} files only.")
    unit = "m" if ending == ".glb" and unit != UNKNOWN else unit  # by definition
    with tempfile.TemporaryDirectory(prefix="meshgan-") as folder:
        path = Path(folder, f"upload{ending}")
        path.write_bytes(content)
        try:
            return Upload(shown, read_mesh(path, "mm" if unit == UNKNOWN else unit), unit)
        except MeshganError as error:
            raise type(error)(str(error).replace(str(path), shown)) from error


def read_code(name: str, content: bytes) -> str:
    """The seed that a JSON file holds: one saved here, or a code that `meshgan sample` or `fit` has written."""
    try:
        if len(content) > MOST_JSON_BYTES:
            raise ValueError
        kept = json.loads(content)
        if "seed" in kept:
            return str(kept["seed"])
        return f"{IDENTITY}={Part.of_code(np.array(kept['code'], dtype=np.float32)).source}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{_shown(name)} holds no face; upload a JSON file that the studio has saved.") from error


def fit(upload: Upload, identity: StudioModel, expression: StudioModel | None = None) -> Fitted:
    """The codes nearest to a mesh (Eq. 2): of the template's triangles, or a scan, which is registered first.

    With an `expression` model, both are fitted in turn. Raises `MeshganError` if there is no face in the scan, or
    its unit is wrong.
    """
    target = in_correspondence(upload, identity.template)
    found = identity.model.fit(target[None])
    if expression is None:
        return Fitted(target, found.codes[0], None)
    for _ in range(ROUNDS):
        size = sizes(found.vertices[0], expression.still)
        feeling = expression.model.fit((expression.still + (target - found.vertices[0]) / size)[None])
        found = identity.model.fit((target - size * (feeling.vertices[0] - expression.still))[None])
    return Fitted(target, found.codes[0], feeling.codes[0])


def in_correspondence(upload: Upload, template: Mesh) -> Faces:
    """The template's vertices (V, 3) in mm on an uploaded mesh, moved rigidly to where the template lies."""
    mesh = upload.mesh
    if np.array_equal(mesh.triangles, template.triangles):
        check_connectivity(mesh, template, upload.name)
        vertices = _of_human_size(upload, template)
    else:
        vertices = _registered(upload, template)
    return rigid(vertices[None], template.vertices).apply(vertices)[0].astype(np.float32)


def _registered(upload: Upload, template: Mesh) -> Floats:
    ours = default_template()
    if not np.array_equal(ours.mesh.triangles, template.triangles):
        check_connectivity(upload.mesh, template, upload.name)
    try:
        return register(upload.mesh, ours, unit="auto" if upload.unit == UNKNOWN else upload.unit).vertices
    except MeshganError as error:
        advice = str(error).replace("give --unit auto", f"choose {UNKNOWN}").replace("--unit ", "the unit ")
        raise type(error)(f"{upload.name}: {advice}") from error


def _of_human_size(upload: Upload, template: Mesh) -> Floats:
    """The vertices in mm. Raises `UsageError` if the unit is wrong."""
    vertices, unit = upload.mesh.vertices, upload.unit
    size = 1 / float(similarity(vertices[None], template.vertices).scale[0])
    if unit == UNKNOWN:
        return vertices / size
    if HUMAN[0] <= size <= HUMAN[1]:
        return vertices
    in_unit = {other: size * length / MILLIMETRES[unit] for other, length in MILLIMETRES.items()}
    fitting = [other for other, share in in_unit.items() if HUMAN[0] <= share <= HUMAN[1]]
    advice = f"choose the unit {fitting[0]}" if fitting else f"choose {UNKNOWN}"
    raise UsageError(f"{upload.name} is {size:.2g} times as large as a face if its unit is {unit}; {advice}.")


def _shown(name: str) -> str:
    """A file's name as it is safe to print: its last part, no control characters, not long."""
    plain = "".join(letter for letter in name.replace("\\", "/").rsplit("/", 1)[-1] if letter.isprintable())
    return plain[-60:] or "the file"
