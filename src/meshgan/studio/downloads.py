"""What a visitor takes away: the present face as GLB with morph targets, OBJ, PLY, a picture, or its code."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from meshgan.geometry.files import write_mesh
from meshgan.model.compose import Shifts, expression_axes, sizes
from meshgan.studio.models import StudioModel
from meshgan.studio.session import Session
from meshgan.studio.stills import stills
from meshgan.view.export import write_glb
from meshgan.view.raster import Camera

FORMATS = ("glb", "obj", "ply", "png", "json")
PICTURE = 1024  # pixels
CURRENT = "expressionCurrent"  # the morph target that is on when the GLB is opened
AXIS_REACH = 2.0  # standard deviations at which an identity axis' morph target is 1


def morph_targets(identity: StudioModel, expression: StudioModel | None) -> Shifts:
    """The morph targets (V, 3) in mm that every GLB has: named expressions and the axes of expressions.

    Without an expression model, the axes of identities instead.
    """
    if expression is not None:
        named = [slider for slider in expression.sliders.values() if not slider.expert]
        faces = {f"expression{slider.key.capitalize()}": expression.start + slider.vector for slider in named}
        return _shifts(expression, faces) | expression_axes(expression.model)
    axes = [slider.vector for slider in identity.sliders.values() if slider.expert]
    sides = (("Plus", AXIS_REACH), ("Minus", -AXIS_REACH))
    codes = {
        f"identityAxis{number:02d}{side}": identity.start + reach * vector
        for number, vector in enumerate(axes, start=1)
        for side, reach in sides
    }
    return _shifts(identity, codes)


def _shifts(model: StudioModel, codes: dict[str, np.ndarray]) -> Shifts:
    if not codes:
        return {}
    faces = model.decode(np.stack(list(codes.values())).astype(np.float32)) - model.still
    return dict(zip(codes, faces, strict=True))


def download(session: Session, kind: str, targets: Shifts, yaw: float = 0.0, pitch: float = 0.0) -> bytes:
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
            write_mesh(path, session.identity.template.with_vertices(session.face))
        return path.read_bytes()


def _write_glb(session: Session, path: Path, targets: Shifts) -> None:
    """The identity as base, its expression as a target at 1, and all `targets`, enlarged as the identity is."""
    base = session.identity.decode(session.state.identity.code(session.identity)[None])[0]
    on = {}
    if session.expression is not None:
        size = sizes(base, session.expression.still)
        shifts = {CURRENT: session.shift()} | targets
        targets, on = {name: size * shift for name, shift in shifts.items()}, {CURRENT: 1.0}
    rights = f"{session.identity.model.card.origin.licence} (faces the model was trained on)"
    write_glb(path, session.identity.template.with_vertices(base), targets, on, rights=rights)


def _picture(session: Session, yaw: float, pitch: float) -> bytes:
    camera = Camera.framing(session.face, yaw, pitch)
    (image,) = stills(session.face[None], session.identity.template.triangles, PICTURE, camera)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def _code(session: Session) -> bytes:
    """The codes, and the seed that brings the face back: here, or as `code` in `meshgan interpolate`."""
    state, expression = session.state, session.expression
    kept = {
        "seed": state.seed,
        "model": session.identity.model.card.name,
        "code": state.identity.code(session.identity).tolist(),
    }
    if expression is not None and state.expression is not None:
        kept |= {
            "expression_model": expression.model.card.name,
            "expression_code": state.expression.code(expression).tolist(),
        }
    return (json.dumps(kept, indent=2) + "\n").encode()
