"""Folded triangles: finding them, and ironing them out without touching the rest."""

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from meshgan.arrays import Booleans, Floats
from meshgan.geometry.mesh import Mesh

ROUNDS = 6
RINGS = 2  # of vertices around a fold that are laid anew


def folded(mesh: Mesh, reference: Floats) -> Booleans:
    """Triangles (F,) whose normal points against the same triangle's in `reference` (V, 3)."""
    before = mesh.with_vertices(reference).triangle_normals
    return np.asarray(np.einsum("fc,fc->f", mesh.triangle_normals, before) < 0)


def unfolded(mesh: Mesh, reference: Floats) -> Floats:
    """Vertices (V, 3) in which the surroundings of folds follow `reference`, moved by their neighbours' shift.

    Around each fold, the displacement from the reference becomes the harmonic continuation of the displacement
    outside; the patch widens round by round while folds remain.
    """
    for rounds in range(ROUNDS):
        bad = folded(mesh, reference)
        if not bad.any():
            break
        patch = _patch(mesh, bad, RINGS + rounds)
        mesh = mesh.with_vertices(reference + _harmonic(mesh, mesh.vertices - reference, patch))
    return mesh.vertices


def _patch(mesh: Mesh, bad: Booleans, rings: int) -> Booleans:
    """The vertices (V,) within `rings` edges of a bad triangle."""
    chosen = np.zeros(len(mesh.vertices), dtype=bool)
    chosen[mesh.triangles[bad]] = True
    i, j = mesh.edges.T
    for _ in range(rings):
        touched = chosen[i] | chosen[j]
        chosen[i[touched]] = chosen[j[touched]] = True
    return chosen


def _harmonic(mesh: Mesh, values: Floats, unknown: Booleans) -> Floats:
    """`values` (V, 3) with those at `unknown` (V,) replaced by the harmonic continuation of the others."""
    i, j = np.concatenate([mesh.edges, mesh.edges[:, ::-1]]).T
    size = len(values)
    neighbours = sp.csr_array((np.ones(len(i)), (i, j)), shape=(size, size))
    rows = neighbours[unknown]
    inner = sp.diags_array(rows.sum(axis=1)) - rows[:, unknown] + 1e-9 * sp.eye_array(int(unknown.sum()))
    result = values.copy()
    result[unknown] = spl.spsolve(sp.csc_matrix(inner), rows[:, ~unknown] @ values[~unknown])
    return result
