"""Reading and writing meshes: OBJ, PLY, GLB, STL. Vertices stay in file order and are never merged or split.

The one exception is STL, whose triangles share nothing: there, corners at exactly the same place become one vertex.
Polygons are cut into fans from their first corner, which depends on connectivity alone, so that files of one
connectivity stay files of one connectivity. A damaged file of any size ends in one sentence.
"""

from pathlib import Path

import numpy as np

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry import glb, obj, ply, stl
from meshgan.geometry.mesh import Mesh
from meshgan.storage import atomic_file

MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
MOST_BYTES = 2 * 10**9


def read_mesh(path: str | Path, unit: str = "mm") -> Mesh:
    """Read one mesh; `unit` is that of the file (GLB is in metres by definition: pass "m").

    Raises `UsageError` if the path or unit is wrong and `MeshganError` if the file holds no usable mesh; both name
    the file.
    """
    path = Path(path)
    if unit not in MILLIMETRES:
        raise UsageError(f"there is no unit {unit!r}; choose one of {', '.join(MILLIMETRES)}.")
    data = _content(path)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found not to be finite
            vertices, triangles = READERS[path.suffix.lower()](data)
            vertices *= MILLIMETRES[unit]
    except Exception as error:  # whatever a reader trips over, it is the file that is wrong
        raise MeshganError(f"{path} cannot be read as a mesh; is it damaged or cut off?") from error
    if not len(triangles):
        raise MeshganError(f"{path} holds no triangles.")
    try:
        return Mesh(vertices, triangles)
    except MeshganError as error:
        raise MeshganError(f"{path} is damaged: {error}") from error


def write_mesh(path: str | Path, mesh: Mesh) -> None:
    """Write one mesh in the format of the path's ending, atomically.

    PLY, OBJ and STL hold millimetres in float32, and give exactly those back; GLB holds metres.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise UsageError(f"{path}: meshes are written as {', '.join(WRITERS)} only.")
    if not len(mesh.triangles):
        raise UsageError(f"{path}: a mesh without triangles cannot be written.")
    content = WRITERS[path.suffix.lower()](mesh)
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def _content(path: Path) -> bytes:
    if path.suffix.lower() not in READERS:
        raise UsageError(f"{path}: meshes are read from {', '.join(READERS)} files only.")
    if not path.is_file():
        raise UsageError(f"{path} does not exist or is not a file.")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} is larger than {MOST_BYTES // 10**9} GB; reduce it first.")
        return path.read_bytes()
    except OSError as error:
        raise MeshganError(f"{path} cannot be read ({error.strerror}).") from error


READERS = {".obj": obj.read, ".ply": ply.read, ".glb": glb.read, ".stl": stl.read}
WRITERS = {".obj": obj.write, ".ply": ply.write, ".glb": glb.write, ".stl": stl.write}
