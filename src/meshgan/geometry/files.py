"""Reading and writing meshes: OBJ, PLY, GLB, STL. Vertices stay in file order and are never merged or split.

The one exception is STL, whose triangles share nothing: there, corners at exactly the same place become one vertex.
Polygons are cut into fans from their first corner, which depends on connectivity alone, so that files of one
connectivity stay files of one connectivity. Of OBJ the positions (`v`) and faces (`f`) of all objects are read; texture
coordinates, normals, groups and materials do not touch them. A damaged file of any size ends in one sentence; what a
format can hold and is not read is told by a `MeshganWarning`.

Faces are written for other tools: many at a time, as GLB (glTF 2.0) with named morph targets, OBJ, PLY.
"""

import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Floats, Integers
from meshgan.errors import MeshganError, MeshganWarning, UsageError
from meshgan.geometry import glb, ply
from meshgan.geometry.mesh import MOST, Layout, Mesh, fans, within_bounds
from meshgan.geometry.plaintext import Words, plain
from meshgan.progress import counted, track
from meshgan.reading import read_bytes
from meshgan.storage import atomic_file

BLOCK = 2**24  # bytes parsed at a time, so that the memory needed is little more than the result
COMMENT = re.compile(rb"#[^\n]*")
TEXTURE_AND_NORMAL = re.compile(rb"/\S*")
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
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


def write_mesh(path: str | Path, mesh: Mesh, layout: Layout | None = None) -> None:
    """Write one mesh in the format of the path's ending, atomically.

    PLY, OBJ and STL hold millimetres in float32, and give exactly those back; GLB holds metres, and names its node
    after the file. OBJ and GLB take texture coordinates along.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise UsageError(f"{path}: meshes are written as {', '.join(WRITERS)} only.")
    if not len(mesh.triangles):
        raise UsageError(f"{path}: a mesh without triangles cannot be written.")
    ending = path.suffix.lower()
    content = WRITERS[ending](mesh, layout, path.stem)
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def read_obj(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of an OBJ file. Raises `MeshganError` if it is damaged."""
    vertices, triangles, known, size, line = [np.empty((0, 3))], [np.empty((0, 3), dtype=np.int64)], 0, 0, 1
    for block in _obj_blocks(plain(data).replace(b"\\\n", b" ")):
        text = COMMENT.sub(b"", block) if b"#" in block else block
        words = Words.of(TEXTURE_AND_NORMAL.sub(b"", text) if b"/" in text else text, line)
        line += block.count(b"\n")
        vertices.append(words.coordinates(b"v", MOST))
        triangles.append(_obj_triangles(words, known))
        known = within_bounds(known + len(vertices[-1]), "vertices")
        size = within_bounds(size + len(triangles[-1]), "triangles")
    return np.concatenate(vertices), np.concatenate(triangles)


def write_obj(mesh: Mesh, layout: Layout | None = None) -> bytes:
    """The mesh as an OBJ file; nine digits give float32 values back exactly."""
    vertices, triangles = mesh.vertices.astype(np.float32), mesh.triangles + 1
    text = "v %.9g %.9g %.9g\n" * len(vertices) % tuple(vertices.ravel().tolist())
    if layout is None:
        text += "f %d %d %d\n" * len(triangles) % tuple(triangles.ravel().tolist())
    else:
        text += "vt %.6f %.6f\n" * len(layout.coordinates) % tuple(layout.coordinates.ravel().tolist())
        pairs = np.stack([triangles, layout.corners + 1], axis=2)
        text += "f %d/%d %d/%d %d/%d\n" * len(pairs) % tuple(pairs.ravel().tolist())
    return b"# meshgan, millimetres\n" + text.encode()


def _obj_blocks(data: bytes) -> list[bytes]:
    """The data cut at line ends into pieces of about `BLOCK` bytes."""
    blocks, start = [], 0
    while start < len(data):
        stop = data.find(b"\n", start + BLOCK) + 1 or len(data)
        blocks.append(data[start:stop])
        start = stop
    return blocks


def _obj_triangles(words: Words, known: int) -> Integers:
    """Zero-based triangles of a block; `known` vertices precede it, and negative numbers count back from a face."""
    first, counts = words.statements(b"f")
    lengths = counts - 1
    before = known + np.searchsorted(words.statements(b"v")[0], first)  # vertices before each face
    places = np.repeat(first + 1 - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    named = words.some(places)
    numbers = named.numbers()
    with np.errstate(invalid="ignore"):
        corners = numbers.astype(np.int64)
    possible = (corners == numbers) & (corners != 0)
    if not possible.all():
        raise MeshganError(f"line {named.line(int(possible.argmin()))} names a vertex that cannot be.")
    corners = np.where(corners < 0, corners + np.repeat(before, lengths), corners - 1)
    return fans(corners, lengths)


def read_stl(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of an STL file. Raises if it is damaged."""
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else -1
    corners = (
        _binary_stl(data, count) if len(data) == 84 + 50 * count or not _stl_is_text(data) else _text_stl(plain(data))
    )
    _, first, inverse = np.unique(corners + np.float32(0), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # vertices in the order in which the file first mentions them
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return corners[first[order]].astype(np.float64), number[inverse].reshape(-1, 3)


def write_stl(mesh: Mesh) -> bytes:
    """The mesh as a binary STL file, corners in float32."""
    records = np.zeros(len(mesh.triangles), TRIANGLE)
    records["normal"] = mesh.triangle_normals
    records["corners"] = mesh.vertices[mesh.triangles]
    return b"\0" * 80 + struct.pack("<I", len(records)) + records.tobytes()


def _stl_is_text(data: bytes) -> bool:
    try:
        start = plain(data[: min(4096, len(data) // 4 * 4)])  # whole letters of UTF-16 and UTF-32
    except MeshganError:
        return False
    return start.lstrip()[:5].lower() == b"solid" and b"\0" not in start


def _binary_stl(data: bytes, count: int) -> Floats:
    """The corners (3F, 3) of a binary file; what follows the triangles is left out."""
    if count < 0:
        raise MeshganError("it is no STL file: it is shorter than a header.")
    if len(data) < 84 + 50 * count:
        raise MeshganError(f"it is cut off: of {counted(count, 'triangle')} only {(len(data) - 84) // 50:,} came.")
    within_bounds(count, "triangles")
    return np.frombuffer(data, TRIANGLE, count, offset=84)["corners"].reshape(-1, 3)


def _text_stl(text: bytes) -> Floats:
    """The corners (3F, 3) of a text file, as float32; what stands behind three numbers is left out."""
    corners = Words.of(text).coordinates(b"vertex", 3 * MOST)
    if len(corners) % 3:
        raise MeshganError("the last triangle is not complete; is the file cut off?")
    return corners.astype(np.float32)


READERS = {".obj": read_obj, ".ply": ply.read, ".glb": glb.read, ".stl": read_stl}
WRITERS: dict[str, Callable[[Mesh, Layout | None, str], bytes]] = {
    ".obj": lambda mesh, layout, name: write_obj(mesh, layout),
    ".ply": lambda mesh, layout, name: ply.write(mesh),
    ".glb": lambda mesh, layout, name: glb.write(mesh, name=name, layout=layout),
    ".stl": lambda mesh, layout, name: write_stl(mesh),
}


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
    for name, face, more in zip(face_names(stem, len(faces)), track(faces, "Writing faces"), known, strict=True):
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
