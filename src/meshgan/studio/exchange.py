"""What goes in and out of the studio: a visitor's mesh to fit, or a code; and the present face as a file.

Files from outside are hostile until proven otherwise. Meshes are read by the worker alone (`worker`).
"""

import io
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshgan.arrays import Booleans, Codes, Faces, Singles
from meshgan.data.corpora.basis import layout_of
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.files import MILLIMETRES, READERS, read_mesh, write_glb, write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.model.compose import Shifts, sizes
from meshgan.model.load import Model
from meshgan.model.rig import kind_of_rig, targets_of
from meshgan.model.samplers import known_number
from meshgan.reading import decoded, parse_json
from meshgan.studio.guard import MOST_BYTES
from meshgan.studio.session import IDENTITY, Part, faces_of
from meshgan.studio.sliders import StudioModel
from meshgan.view.figures import worn

if TYPE_CHECKING:
    from meshgan.studio.session import Session

MOST_JSON_BYTES = 2**20
UNKNOWN = "unknown"
UNITS = (*MILLIMETRES, UNKNOWN)
ROUNDS = 2  # of fitting identity and expression in turn
PLACED = 2  # times that a part of a face is moved onto the model's, which the fit before has found

FORMATS = ("glb", "obj", "ply", "png", "json")
PICTURE = 1024  # pixels
COLOUR: Singles = np.array(
    [218 / 255, 198 / 255, 183 / 255], np.float32
)  # sRGB; in the light of pictures it looks as the page's clay does
CURRENT = "expressionCurrent"  # the morph target that is on when the GLB is opened


def colour_of(template: Mesh) -> Singles:
    """What faces of a template are drawn with: their parts' colours (V, 3), or clay (3,)."""
    found = worn(layout_of(template))
    return COLOUR if found is None else found


@dataclass(frozen=True, eq=False)
class Upload:
    """A mesh, its file's name as it is safe to print, and its unit; in mm already, unless the unit is unknown."""

    name: str
    mesh: Mesh
    unit: str


@dataclass(frozen=True, eq=False)
class Fitted:
    """A mesh (V, 3) in mm, aligned with the template, NaN where it shows nothing, and the codes nearest to it."""

    target: Faces
    identity: Codes
    expression: Codes | None


def check_upload(name: str, size: int, unit: str) -> None:
    """Raises `UsageError` with a sentence for a file that need not be looked into."""
    if size > MOST_BYTES:
        raise UsageError(f"{safe_name(name)} is larger than {MOST_BYTES // 2**20} MB; reduce it first.")
    if Path(name).suffix.lower() not in READERS:
        raise UsageError(f"{safe_name(name)}: meshes are read from {', '.join(READERS)} files only.")
    if unit not in UNITS:
        raise UsageError(f"there is no unit '{unit[:20]}'; choose one of {', '.join(UNITS)}.")


def read_upload(name: str, path: Path, unit: str) -> Upload:
    """The mesh in `path`, which came as `name`. Raises `MeshganError` with a sentence that names the file."""
    shown = safe_name(name)
    check_upload(name, path.stat().st_size, unit)
    unit = "m" if path.suffix == ".glb" and unit != UNKNOWN else unit  # by definition
    try:
        return Upload(shown, read_mesh(path, "mm" if unit == UNKNOWN else unit), unit)
    except MeshganError as error:
        raise type(error)(str(error).replace(str(path), shown)) from error


def read_code(name: str, content: bytes) -> str:
    """The seed that a JSON file holds: one saved here, or a code that `meshgan sample` or `fit` has written."""
    try:
        if len(content) > MOST_JSON_BYTES:
            raise ValueError
        kept = parse_json(decoded(content), "it")
        if isinstance(kept.get("seed"), str):
            return str(kept["seed"])
        number = known_number(kept.get("number"))
        return f"{IDENTITY}={Part.of_code(np.array(kept['code'], dtype=np.float32), number).source}"
    except (MeshganError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{safe_name(name)} holds no face; upload a JSON file that the studio has saved.") from error


def fit(upload: Upload, identity: Model, expression: Model | None = None, still: Faces | None = None) -> Fitted:
    """The codes nearest to a mesh (Eq. 2): of the template's triangles, or a scan, which is registered first.

    With an `expression` model and its neutral face `still` (V, 3), both are fitted in turn. Raises `MeshganError` if
    there is no face in the scan, or its unit is wrong.
    """
    target, known = _placed(upload, identity.template)
    weights = known.astype(np.float32)
    found = identity.fit(target[None], weights)
    for _ in range(0 if known.all() else PLACED):
        target = rigid(target, found.vertices[0], weights)(target).astype(np.float32)
        found = identity.fit(target[None], weights)
    shown = np.where(known[:, None], target, np.float32(np.nan))
    if expression is None or still is None:
        return Fitted(shown, found.codes[0], None)
    for _ in range(ROUNDS):
        size = sizes(found.vertices[0], still)
        feeling = expression.fit((still + (target - found.vertices[0]) / size)[None], weights)
        found = identity.fit((target - size * (feeling.vertices[0] - still))[None], weights)
    return Fitted(shown, found.codes[0], feeling.codes[0])


def _placed(upload: Upload, template: Mesh) -> tuple[Faces, Booleans]:
    """The template's vertices (V, 3) in mm on an uploaded mesh, moved rigidly to where the template lies, and which of
    them (V,) the mesh shows: of a head, a scan shows the face."""
    from meshgan.registration.templates import AUTO, in_correspondence  # only the worker needs it

    try:
        unit = AUTO if upload.unit == UNKNOWN else upload.unit
        vertices, known = in_correspondence(upload.mesh, template, unit, upload.name)
    except MeshganError as error:
        advice = str(error).replace(f"give `unit='{AUTO}'`", f"choose {UNKNOWN}")
        raise type(error)(re.sub(r"`unit='(\w+)'`", r"the unit \1", advice)) from error
    return rigid(vertices, template.vertices, known.astype(np.float64))(vertices).astype(np.float32), known


def safe_name(name: str) -> str:
    """A file's name as it is safe to print: its last part, no control characters, not long."""
    plain = "".join(letter for letter in name.replace("\\", "/").rsplit("/", 1)[-1] if letter.isprintable())
    return plain[-60:] or "the file"


def morph_targets(expression: StudioModel | None) -> Shifts:
    """The named expressions (V, 3) in mm of an expression model, which are morph targets of every GLB."""
    if expression is None:
        return {}
    named = [slider for slider in expression.sliders.values() if not slider.expert]
    if not named:
        return {}
    codes = np.stack([expression.start + slider.vector for slider in named]).astype(np.float32)
    faces = expression.decode(codes) - expression.still
    return dict(zip((f"expression{slider.key.capitalize()}" for slider in named), faces, strict=True))


def download(session: "Session", kind: str, targets: Shifts, yaw: float = 0.0, pitch: float = 0.0) -> bytes:
    """The present face as a file of one of `FORMATS`; the picture is taken from `yaw` and `pitch` (degrees)."""
    if kind == "png":
        return _picture(session, yaw, pitch)
    if kind == "json":
        return _code(session)
    with tempfile.TemporaryDirectory(prefix="meshgan-") as folder:
        path = Path(folder, f"face.{kind}")
        if kind == "glb":
            _write_glb(session, path, targets)
        else:
            template = session.identity.template
            write_mesh(path, template.with_vertices(session.face), layout_of(template))
        return path.read_bytes()


def _write_glb(session: "Session", path: Path, targets: Shifts) -> None:
    """The identity as base, its expression as a target at 1, its own rig where its template has one, and all
    `targets`, enlarged as the identity is."""
    base = faces_of(session.identity, [session.state.identity])[0]
    rigged, on = targets_of(base, kind_of_rig(None, session.identity.template)), {}
    if session.expression is not None and session.expression.shapes:
        weights = (session.state.expression or Part.at_start(session.expression)).code(session.expression)
        targets, on = rigged, dict(zip(session.expression.shapes, map(float, weights), strict=True))
    elif session.expression is not None:
        size = sizes(base, session.expression.still)
        named = {name: size * shift for name, shift in targets.items()}
        targets, on = {CURRENT: size * session.shift()} | rigged | named, {CURRENT: 1.0}
    else:
        targets = rigged
    rights = f"{session.identity.model.card.origin.licence} (faces the model was trained on)"
    template, about = session.identity.template, _known(session)
    name = f"{about['model']}-{about['seed']}"  # of its own, or two of them clash in a scene
    write_glb(path, template.with_vertices(base), targets, on, name, rights, layout_of(template), about=about)


def _picture(session: "Session", yaw: float, pitch: float) -> bytes:
    from PIL import Image

    from meshgan.view.figures import tiles  # the worker, which starts with the first file, draws nothing
    from meshgan.view.raster import Camera

    camera = Camera.framing(session.face, yaw, pitch)
    template = session.identity.template
    (image,) = tiles(session.face[None], template.triangles, PICTURE, camera=camera, colour=colour_of(template))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def _code(session: "Session") -> bytes:
    return (json.dumps(_known(session), indent=2) + "\n").encode()


def _known(session: "Session") -> dict[str, Any]:
    """The codes, and the seed that brings the face back: here, or as `code` in `meshgan interpolate`."""
    state, expression = session.state, session.expression
    kept = {
        "seed": state.seed,
        "model": session.identity.model.card.name,
        "licence": session.identity.model.card.origin.licence,
        "code": state.identity.code(session.identity).tolist(),
    } | ({} if state.identity.number is None else {"number": state.identity.number})
    if expression is not None and state.expression is not None:
        kept |= {
            "expression_model": expression.model.card.name,
            "expression_code": state.expression.code(expression).tolist(),
        } | ({} if state.expression.number is None else {"expression_number": state.expression.number})
    return kept
