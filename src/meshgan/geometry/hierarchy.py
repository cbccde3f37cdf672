"""The levels of one template: what a network on meshes needs to know of its geometry, computed once.

Level 0 is the template. Each level holds its Laplacian, rescaled to [-1, 1] for Chebyshev polynomials, the
selection of the vertices that the next level keeps, and the barycentric way back.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from meshgan.arrays import Integers
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.decimate import decimate
from meshgan.geometry.laplacian import (
    combinatorial_laplacian,
    cotangent_laplacian,
    largest_eigenvalue,
    rescale,
)
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import ClosestPoints, barycentric_matrix, closest_points
from meshgan.reading import read_arrays
from meshgan.remembered import cache_folder, code_of, key_of
from meshgan.storage import atomic_file

Kind = Literal["cotangent", "combinatorial"]

FORMAT = 2  # of the file
CODE = ("arrays.py", "geometry")  # what a hierarchy comes about by
FACTOR, STEPS = 4, 4  # the paper's: four times down by four, 5036 → 1259 → 315 → 79 → 20
LARGEST_FILE = 2**31  # bytes, unpacked
DAMAGE = (MeshganError, OSError, ValueError, KeyError, TypeError, OverflowError, IndexError)


@dataclass(frozen=True, eq=False)
class Level:
    """One level: its `mesh`, its `laplacian` (V, V) with eigenvalues in [-1, 1], and the way down and up.

    `kept` (V_next,) are the vertices that the next level keeps, increasing; `up` (V, V_next) carries values of
    the next level back, rows sum to 1, and `up[kept]` is the identity. Both are None on the coarsest level.
    """

    mesh: Mesh
    laplacian: sp.csr_array
    kept: Integers | None
    up: sp.csr_array | None


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """All levels of a template, finest first, and which Laplacian they hold."""

    levels: tuple[Level, ...]
    kind: Kind

    @property
    def counts(self) -> tuple[int, ...]:
        """Vertices of each level."""
        return tuple(len(level.mesh.vertices) for level in self.levels)

    @classmethod
    def build(cls, mesh: Mesh, counts: Sequence[int] | None = None, kind: Kind = "cotangent") -> "Hierarchy":
        """Decimate `mesh` to each of `counts` in turn and compute every level's operators.

        Without `counts`, each of four levels has a quarter of the vertices of the one before, or as few as its
        topology allows (every component and hole stays). Raises `MeshganError` if given `counts` cannot be
        reached. Vertices are rounded to float32, as files hold them, so that a template and its file agree.
        """
        if kind not in get_args(Kind):
            raise UsageError(f"there is no {kind!r} Laplacian; choose one of {', '.join(get_args(Kind))}.")
        meshes = [mesh.with_vertices(mesh.vertices.astype(np.float32))]
        kept: list[Integers] = []
        for step in range(STEPS if counts is None else len(counts)):
            fine = meshes[-1]
            count = max(1, round(len(fine.vertices) / FACTOR)) if counts is None else counts[step]
            coarse = decimate(fine, count, exact=counts is not None)
            meshes.append(coarse.mesh)
            kept.append(coarse.kept)
        levels = [
            Level(fine, _operator(fine, kind), selection, _way_up(coarse, fine, selection))
            for (fine, coarse), selection in zip(pairwise(meshes), kept, strict=True)
        ]
        return cls((*levels, Level(meshes[-1], _operator(meshes[-1], kind), None, None)), kind)

    @classmethod
    def cached(cls, mesh: Mesh, counts: Sequence[int] | None = None, kind: Kind = "cotangent") -> "Hierarchy":
        """Like `build`, but remembered in `$XDG_CACHE_HOME/meshgan` under the content of mesh and arguments.

        A damaged entry is built again; a cache that cannot be written is done without.
        """
        asked = None if counts is None else list(map(int, counts))
        bits = hashlib.sha256(mesh.vertices.tobytes() + mesh.triangles.tobytes()).hexdigest()
        key = key_of(kind=kind, counts=asked, vertices=len(mesh.vertices), mesh=bits, code=code_of(*CODE))
        path = cache_folder() / f"hierarchy-{key}.npz"
        with suppress(MeshganError):
            return cls.load(path)
        hierarchy = cls.build(mesh, counts, kind)
        with suppress(MeshganError):
            hierarchy.save(path)
        return hierarchy

    def save(self, path: str | Path) -> None:
        """Write all levels to one `.npz` file of plain arrays; the same hierarchy gives the same bytes."""
        arrays: dict[str, NDArray[Any]] = {"format": np.array(FORMAT), "kind": np.array(self.kind)}
        for number, level in enumerate(self.levels):
            fields = _packed(level)
            arrays |= {f"{number}.{name}": array for name, array in fields.items()}
        with atomic_file(Path(path)) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # an array cannot be named allow_pickle

    @classmethod
    def load(cls, path: str | Path) -> "Hierarchy":
        """Read what `save` wrote. Raises `MeshganError` if it is missing, damaged, or contradicts itself."""
        try:
            arrays = read_arrays(path, LARGEST_FILE)
            count = len({name.split(".")[0] for name in arrays} - {"format", "kind"})
            levels = [_unpacked(arrays, number, last=number == count - 1) for number in range(count)]
            _check(levels, arrays)
        except DAMAGE as error:
            raise MeshganError(
                f"{path} is missing, damaged or of another version; build the hierarchy again."
            ) from error
        return cls(tuple(levels), str(arrays["kind"]))  # type: ignore[arg-type]  # _check has seen it


def _operator(mesh: Mesh, kind: Kind) -> sp.csr_array:
    if kind == "combinatorial":
        return rescale(combinatorial_laplacian(mesh), 2.0)  # the bound that CoMA takes
    laplacian = cotangent_laplacian(mesh)
    return rescale(laplacian, largest_eigenvalue(laplacian))


def _way_up(coarse: Mesh, fine: Mesh, kept: Integers) -> sp.csr_array:
    """Barycentric up-sampling, each connected part of the mesh from its own; a kept vertex takes its own value, even
    where another lies at the same place."""
    gone = np.ones(len(fine.vertices))
    gone[kept] = 0.0
    own = sp.csr_array((np.ones(len(kept)), (kept, np.arange(len(kept)))), shape=(len(gone), len(kept)))
    way = (sp.diags_array(gone) @ _nearest(coarse, fine, fine.components, kept) + own).tocsr()
    way.eliminate_zeros()
    return way


def _nearest(coarse: Mesh, fine: Mesh, part: Integers, kept: Integers) -> sp.csr_array:
    """U (V_fine, V_coarse) of the closest points on the same `part` (V_fine,): an eye learns nothing from its lids."""
    alive = part[kept[coarse.triangles[:, 0]]]
    triangle, weights = np.full(len(part), -1), np.zeros((len(part), 3))
    numbers = np.unique(alive)
    if len(numbers) > 1:
        rows_of, triangles_of = _grouped(part, numbers), _grouped(alive, numbers)
        for rows, own in zip(rows_of, triangles_of, strict=True):
            used, corners = np.unique(coarse.triangles[own], return_inverse=True)
            surface = Mesh(coarse.vertices[used], corners.reshape(-1, 3))
            with suppress(MeshganError):  # a part without an area takes what is nearest
                found = closest_points(fine.vertices[rows], surface)
                triangle[rows], weights[rows] = own[found.triangle], found.barycentric
    rest = np.flatnonzero(triangle < 0)
    if len(rest):
        found = closest_points(fine.vertices[rest], coarse)
        triangle[rest], weights[rest] = found.triangle, found.barycentric
    return barycentric_matrix(ClosestPoints(triangle, weights, fine.vertices, np.zeros(len(part))), coarse)


def _grouped(labels: Integers, wanted: Integers) -> list[Integers]:
    """The places, increasing, of each of the `wanted` labels, which increase."""
    order = np.argsort(labels, kind="stable")
    starts, stops = (np.searchsorted(labels[order], wanted, side) for side in ("left", "right"))
    return [order[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _packed(level: Level) -> dict[str, NDArray[Any]]:
    fields = {"vertices": level.mesh.vertices.astype(np.float32), "triangles": level.mesh.triangles.astype(np.int32)}
    fields |= _packed_matrix("laplacian", level.laplacian)
    if level.kept is not None and level.up is not None:
        fields |= {"kept": level.kept.astype(np.int32)} | _packed_matrix("up", level.up)
    return fields


def _packed_matrix(name: str, matrix: sp.csr_array) -> dict[str, NDArray[Any]]:
    return {
        f"{name}.data": matrix.data,
        f"{name}.indices": matrix.indices.astype(np.int32),
        f"{name}.indptr": matrix.indptr.astype(np.int32),
    }


def _unpacked(arrays: Mapping[str, NDArray[Any]], number: int, last: bool) -> Level:
    mesh = Mesh(arrays[f"{number}.vertices"], arrays[f"{number}.triangles"])
    size = len(mesh.vertices)
    laplacian = _unpacked_matrix(arrays, f"{number}.laplacian", (size, size))
    if last:
        return Level(mesh, laplacian, None, None)
    kept = arrays[f"{number}.kept"].astype(np.int64)
    next_size = len(arrays[f"{number + 1}.vertices"])
    return Level(mesh, laplacian, kept, _unpacked_matrix(arrays, f"{number}.up", (size, next_size)))


def _unpacked_matrix(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, int]) -> sp.csr_array:
    data, indices, indptr = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    _require(data.dtype == np.float64 and indices.dtype == indptr.dtype == np.int32)
    _require(bool(np.isfinite(data).all()))
    matrix = sp.csr_array((data, indices, indptr), shape=shape)
    matrix.check_format(full_check=True)
    return matrix


def _check(levels: Sequence[Level], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise `ValueError` unless the levels fit together."""
    _require(len(levels) > 0 and int(arrays["format"]) == FORMAT and str(arrays["kind"]) in get_args(Kind))
    for level, coarser in pairwise(levels):
        assert level.kept is not None
        assert level.up is not None
        _require(level.kept.ndim == 1 and bool((np.diff(level.kept) > 0).all()))
        _require(bool((level.kept >= 0).all() and (level.kept < len(level.mesh.vertices)).all()))
        _require(np.array_equal(level.mesh.vertices[level.kept], coarser.mesh.vertices))
        _require(np.allclose(level.up.sum(axis=1), 1.0, rtol=0, atol=1e-9) and bool((level.up.data >= 0).all()))


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("the arrays contradict each other")
