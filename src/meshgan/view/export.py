"""Faces as files that other tools open: GLB (glTF 2.0) with named morph targets, OBJ, PLY."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.errors import MeshganError
from meshgan.geometry import glb
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Layout, Mesh
from meshgan.progress import track
from meshgan.storage import atomic_file


def write_glb(
    path: Path,
    mesh: Mesh,
    morph_targets: Mapping[str, ArrayLike] | None = None,
    weights: Mapping[str, float] | None = None,
    name: str = "face",
    rights: str = "",
    layout: Layout | None = None,
    picture: bytes = b"",
    animation: glb.Animation | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write one mesh (mm inside, metres in the file) with named morph targets; see `glb.write`.

    `morph_targets` maps names to displacements (V, 3) in mm, `weights` some of the names to their value when the
    file is opened (others: 0). Normals, and how each target changes them, are written along; `rights` is the
    copyright line, and `about` what else to know, in the node's extras. The file appears whole or not at all. Raises
    `MeshganError` if the mesh has no triangle.
    """
    if not len(mesh.triangles):
        raise MeshganError(f"{path}: a GLB needs at least one triangle, and this mesh has none.")
    content = glb.write(mesh, morph_targets, weights, name, rights, None, layout, picture, animation, about)
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def face_names(stem: str, count: int) -> list[str]:
    """The names of the files of `count` faces, without their endings."""
    digits = max(3, len(str(count - 1)))
    return [f"{stem}-{index:0{digits}d}" for index in range(count)]


def write_faces(
    faces: NDArray[np.floating[Any]],
    template: Mesh,
    folder: Path,
    formats: Iterable[str] = ("glb",),
    stem: str = "face",
    targets: Callable[[NDArray[np.floating[Any]]], Mapping[str, ArrayLike]] = lambda face: {},
    layout: Layout | None = None,
    about: Sequence[Mapping[str, Any]] = (),
    series: str = "",
) -> list[Path]:
    """Write faces (N, V, 3) in mm as `folder/stem-000.glb` and so on in each of the formats (glb, obj, ply).

    OBJ and PLY stay in millimetres; `targets` makes the morph targets of a face (V, 3) for its GLB, and GLB and OBJ
    have the texture coordinates of a `layout`. The extras of a GLB say what `about` (N,) has of it, and its name in a
    scene begins with `series`. Returns the paths.
    """
    paths = []
    known = about or [{}] * len(faces)
    for name, face, more in zip(face_names(stem, len(faces)), track(faces, "writing faces"), known, strict=True):
        mesh = template.with_vertices(face)
        for ending in formats:
            path = folder / f"{name}.{ending}"
            folder.mkdir(parents=True, exist_ok=True)
            if ending == "glb":
                rights, title = str(more.get("licence", "")), f"{series}{name}"
                write_glb(path, mesh, targets(face), name=title, rights=rights, layout=layout, about=more)
            else:
                write_mesh(path, mesh, layout)
            paths.append(path)
    return paths
