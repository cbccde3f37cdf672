"""Reading and writing meshes: OBJ, PLY, GLB, STL (by trimesh), vertices in file order."""

from pathlib import Path

import trimesh

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh

MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0}


def read_mesh(path: Path, unit: str = "mm") -> Mesh:
    """Read one mesh; `unit` is that of the file. Raises `MeshganError` with the file's name if it is unusable."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    try:
        loaded = trimesh.load_mesh(path, process=False, maintain_order=True)
    except Exception as error:
        raise MeshganError(f"{path} cannot be read as a mesh; is it damaged or cut off?") from error
    return Mesh(loaded.vertices * MILLIMETRES[unit], loaded.faces)


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write one mesh in the format of the path's ending."""
    trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False).export(path)
