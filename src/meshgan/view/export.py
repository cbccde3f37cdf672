"""Faces as files that other tools open: GLB (glTF 2.0) with named morph targets, OBJ, PLY.

The GLB writer needs nothing but `json` and `struct`: one mesh, one node, float32 positions in metres (as glTF
demands), normals, a plain skin-toned material. Morph targets are displacements; their names stand in the mesh's
`extras.targetNames`, where game engines and Blender look for them. The same input gives the same bytes.
Reference: Khronos Group, glTF 2.0 Specification, sections 3.7.2 (meshes, morph targets) and 4 (GLB).
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Floats, Singles
from meshgan.errors import MeshganError
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.progress import track
from meshgan.storage import atomic_file

METRES = 1e-3  # per millimetre
ARRAY_BUFFER, ELEMENT_BUFFER = 34962, 34963
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
SKIN = {
    "name": "skin",
    "pbrMetallicRoughness": {
        "baseColorFactor": [0.58, 0.36, 0.27, 1.0],  # linear
        "metallicFactor": 0.0,
        "roughnessFactor": 0.6,
    },
    "doubleSided": True,  # a face is an open surface
}


def write_glb(
    path: Path,
    mesh: Mesh,
    morph_targets: Mapping[str, ArrayLike] | None = None,
    weights: Mapping[str, float] | None = None,
    name: str = "face",
    rights: str = "",
) -> None:
    """Write one mesh (mm inside, metres in the file) with named morph targets.

    `morph_targets` maps names to displacements (V, 3) in mm, `weights` some of the names to their value when the
    file is opened (others: 0). Normals, and how each target changes them, are written along; `rights` is the
    copyright line. The file appears whole or not at all. Raises `MeshganError` if the mesh has no triangle.
    """
    if not len(mesh.triangles):
        raise MeshganError(f"{path}: a GLB needs at least one triangle, and this mesh has none.")
    targets = {key: np.asarray(shift, dtype=np.float64) for key, shift in (morph_targets or {}).items()}
    _check(mesh, targets, weights or {})
    with atomic_file(path) as partial:
        partial.write_bytes(_container(*_document(mesh, targets, weights or {}, name, rights)))


def write_faces(
    faces: NDArray[np.floating[Any]],
    template: Mesh,
    folder: Path,
    formats: Iterable[str] = ("glb",),
    stem: str = "face",
) -> list[Path]:
    """Write faces (N, V, 3) in mm as `folder/stem-000.glb` and so on in each of the formats (glb, obj, ply).

    OBJ and PLY stay in millimetres. Returns the paths.
    """
    digits = max(3, len(str(len(faces) - 1)))
    paths = []
    for index, face in enumerate(track(faces, "writing faces")):
        mesh = template.with_vertices(face)
        for ending in formats:
            path = folder / f"{stem}-{index:0{digits}d}.{ending}"
            folder.mkdir(parents=True, exist_ok=True)
            if ending == "glb":
                write_glb(path, mesh, name=path.stem)
            else:
                write_mesh(path, mesh)
            paths.append(path)
    return paths


def _check(mesh: Mesh, targets: Mapping[str, Floats], weights: Mapping[str, float]) -> None:
    for key, shift in targets.items():
        if shift.shape != mesh.vertices.shape or not np.isfinite(shift).all():
            raise ValueError(f"morph target {key!r} needs finite displacements of shape {mesh.vertices.shape}")
    if not set(weights) <= set(targets):
        raise ValueError(f"weights without a morph target: {sorted(set(weights) - set(targets))}")


def _document(
    mesh: Mesh, targets: Mapping[str, Floats], weights: Mapping[str, float], name: str, rights: str
) -> tuple[dict[str, Any], bytes]:
    """The JSON part and the binary part."""
    normals = _unit_normals(mesh)
    buffer = _Buffer()
    attributes = {"POSITION": buffer.add_vectors(mesh.vertices * METRES), "NORMAL": buffer.add_vectors(normals)}
    primitive: dict[str, Any] = {"attributes": attributes, "indices": buffer.add_indices(mesh), "material": 0}
    body: dict[str, Any] = {"name": name, "primitives": [primitive]}
    if targets:
        primitive["targets"] = [
            {
                "POSITION": buffer.add_vectors(shift * METRES),
                "NORMAL": buffer.add_vectors(_unit_normals(mesh.with_vertices(mesh.vertices + shift)) - normals),
            }
            for shift in targets.values()
        ]
        body["weights"] = [float(weights.get(key, 0.0)) for key in targets]
        body["extras"] = {"targetNames": list(targets)}
    document = {
        "asset": {"version": "2.0", "generator": "meshgan"} | ({"copyright": rights} if rights else {}),
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [body],
        "materials": [SKIN],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    return document, bytes(buffer.data)


def _unit_normals(mesh: Mesh) -> Singles:
    """Vertex normals (V, 3) of length 1; where there is no surface, +z."""
    normals = mesh.vertex_normals.copy()
    normals[~normals.any(axis=1)] = (0.0, 0.0, 1.0)
    return normals.astype(np.float32)


class _Buffer:
    """The binary part as it grows, with the accessor and the view of each array."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.accessors: list[dict[str, Any]] = []
        self.views: list[dict[str, int]] = []

    def add_vectors(self, vectors: NDArray[np.floating[Any]]) -> int:
        """Append (V, 3) as float32 with its bounds; returns the accessor's index."""
        values = np.ascontiguousarray(vectors, dtype="<f4")
        bounds = {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        return self._add(values, ARRAY_BUFFER, {"componentType": FLOAT, "type": "VEC3", **bounds})

    def add_indices(self, mesh: Mesh) -> int:
        """Append the triangles as the smallest type that holds them; its largest value is reserved by glTF."""
        short = len(mesh.vertices) <= 0xFFFF
        values = np.ascontiguousarray(mesh.triangles.reshape(-1), dtype="<u2" if short else "<u4")
        kind = UNSIGNED_SHORT if short else UNSIGNED_INT
        bounds = {"min": [int(values.min())], "max": [int(values.max())]}
        return self._add(values, ELEMENT_BUFFER, {"componentType": kind, "type": "SCALAR", **bounds})

    def _add(self, values: NDArray[Any], target: int, accessor: dict[str, Any]) -> int:
        self.data += bytes(-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes, "target": target}
        self.data += values.tobytes()
        self.views.append(view)
        self.accessors.append({"bufferView": len(self.views) - 1, "count": len(values), **accessor})
        return len(self.accessors) - 1


def _container(document: Mapping[str, Any], binary: bytes) -> bytes:
    """The GLB file: header, JSON chunk padded with spaces, binary chunk padded with zeros."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
