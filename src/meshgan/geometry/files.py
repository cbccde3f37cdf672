"""Reading and writing meshes: OBJ, PLY, GLB, STL. Vertices stay in file order and are never merged or split.

The one exception is STL, whose triangles share nothing: there, corners at exactly the same place become one vertex.
Polygons are cut into fans from their first corner, which depends on connectivity alone, so that files of one
connectivity stay files of one connectivity. A damaged file of any size ends in one sentence; what a format can hold
and is not read is told by a `MeshganWarning`.
"""

import warnings
from pathlib import Path

import numpy as np

from meshgan.errors import MeshganError, MeshganWarning, UsageError
from meshgan.geometry import glb, obj, ply, stl
from meshgan.geometry.mesh import Mesh
from meshgan.reading import read_bytes
from meshgan.storage import atomic_file

MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
MOST_BYTES = 2**30


def read_mesh(path: str | Path, unit: str = "mm", glb_unit: str = "m") -> Mesh:
    """Read one mesh; `unit` is that of OBJ, PLY and STL files, which do not say it.

    GLB files are in metres by definition; `glb_unit` is for those that are not. Raises `UsageError` if the path or
    unit is wrong and `MeshganError` if the file holds no usable mesh; both name the file.
    """
    path = Path(path)
    ending = path.suffix.lower()
    millimetres = millimetres_of(glb_unit if ending == ".glb" else unit)
    if ending not in READERS:
        raise UsageError(f"{path}: meshes are read from {', '.join(READERS)} files only.")
    data = read_bytes(path, MOST_BYTES)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found not to be finite
            vertices, triangles, *left_out = READERS[ending](data)
            vertices *= millimetres
        if not len(triangles):
            raise MeshganError("it holds no triangles.")
        mesh = Mesh(vertices, triangles)
    except MeshganError as error:
        raise MeshganError(f"{path} cannot be read as a mesh: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a reader trips over, it is the file that is wrong
        raise MeshganError(f"{path} cannot be read as a mesh; is it damaged or cut off?") from error
    for what in left_out:
        warnings.warn(f"{path}: {what}", MeshganWarning, stacklevel=2)
    return mesh


def millimetres_of(unit: str) -> float:
    """The length of a unit in millimetres. Raises `UsageError` for others than `mm`, `cm` and `m`."""
    if unit not in MILLIMETRES:
        raise UsageError(f"there is no unit {unit!r}; choose one of {', '.join(MILLIMETRES)}.")
    return MILLIMETRES[unit]


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


READERS = {".obj": obj.read, ".ply": ply.read, ".glb": glb.read, ".stl": stl.read}
WRITERS = {".obj": obj.write, ".ply": ply.write, ".glb": glb.write, ".stl": stl.write}
