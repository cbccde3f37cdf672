"""Laplacians of a mesh, and by them where the energy of a deformation lies: manifold harmonics, by bands of wavelength.

Laplacians are positive semi-definite, and zero on constants. `cotangent_laplacian` is the one of the MeshGAN paper
(Sec. 3.1), `combinatorial_laplacian` the one of CoMA. Both are handed to Chebyshev polynomials, which need the spectrum
in [-1, 1]: `largest_eigenvalue`, then `rescale`.

The harmonics of a mesh are the eigenvectors φ of the paper's Laplacian, W φ = λ A φ, orthonormal under the areas A:
the mesh's Fourier basis (Vallet and Lévy 2008; the paper's Sec. 3.1). λ is the square of a wave number, so that φ has
the wavelength 2π/√λ. The energy of a displacement field in a band is the sum of its squared coefficients there over
the area of the mesh: a mean square in mm², and over all bands exactly the mean square of the displacement.

A mesh has as many harmonics as vertices, too many to compute. Only the few longest are, exactly. What they leave is
filtered by polynomials in the Laplacian, whose energies follow from Chebyshev moments ⟨d, T_k d⟩ (the kernel polynomial
method, Weiße et al. 2006): a product with a sparse matrix for every two degrees, no eigenvector, all bands at once.
Such a band has soft edges, a few per cent of its wavelength wide, more on meshes far finer than the bands.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh

from meshgan.arrays import Floats, Integers
from meshgan.compiled import SUMS_IN_ANY_ORDER, compiled
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh

# Below this ratio of area to squared longest edge, a triangle is degenerate: three points of a face in one line,
# stored in float32 millimetres, come out near 1e-5, and weights beyond its inverse would drown the whole spectrum.
DEGENERATE = 1e-5

DENSE_SIZE = 64  # up to here a dense solver is quicker than Lanczos, and cannot fail to converge

# The bands (longest, shortest) of wavelength in mm in which detail is reported, from half a face to pores and wrinkles.
BANDS = ((128.0, 64.0), (64.0, 32.0), (32.0, 16.0), (16.0, 11.0), (11.0, 8.0), (8.0, 5.5), (5.5, 0.0))

HARMONICS, HARMONIC_NUMBERS = 300, 2**21  # at most so many are computed, and so many numbers that they are made of
DENSE = 500  # vertices up to which all of them are: quicker than any filter
EDGE = 0.03  # width of the softest edge of a band, one deviation, relative to its wave number
DEGREES = 640  # of the Chebyshev series, at most: what bounds the time, and makes edges softer on the finest meshes
REACH = 3.5  # deviations at which the Chebyshev series of an edge is cut off: what is left is exp(-REACH²/2)
COLUMNS = 64  # coordinates of faces filtered together: whole cache lines, and they vectorise
CHUNK = 512  # rows summed in float32 before they are added up in float64


def cotangent_weights(mesh: Mesh) -> sp.csr_array:
    """W (V, V): symmetric, `W_ij = -w_ij` on edges and `W_ii = sum_j w_ij`, so that W is positive semi-definite.

    `w_ij` is the paper's, from edge lengths l and triangle areas A alone: the sum over the one or two triangles
    (i, j, k) of `(-l_ij² + l_jk² + l_ki²) / (8 A_ijk)`, half the cotangent of the angle at k. It is negative
    across obtuse angles; W stays semi-definite all the same. Duplicate triangles count once, degenerate ones not
    at all, an edge of more than two triangles sums over all of them, and an unreferenced vertex has a row of zeros.
    """
    triangles, lengths, areas = _metric(mesh)
    squares = lengths**2
    half_cotangents = (squares.sum(axis=1, keepdims=True) - 2 * squares) / (8 * areas[:, None])
    i, j = triangles[:, [1, 2, 0]].ravel(), triangles[:, [2, 0, 1]].ravel()
    weights = sp.coo_array((half_cotangents.ravel(), (i, j)), shape=(len(mesh.vertices),) * 2).tocsr()
    weights = weights + weights.T
    return (sp.diags_array(weights.sum(axis=1)) - weights).tocsr()


def mass(mesh: Mesh) -> Floats:
    """Local areas (V,) in mm²: a third of the areas around each vertex; zero where there are none."""
    triangles, _, areas = _metric(mesh)
    thirds = np.bincount(triangles.ravel(), weights=np.repeat(areas / 3, 3), minlength=len(mesh.vertices))
    return thirds.astype(np.float64)  # without triangles, bincount forgets its weights and counts in integers


def cotangent_laplacian(mesh: Mesh) -> sp.csr_array:
    """The paper's Laplacian `A⁻¹W` (V, V), in 1/mm²; vertices without area have a row of zeros."""
    areas = mass(mesh)
    inverse = np.divide(1.0, areas, out=np.zeros_like(areas), where=areas > 0)
    return (sp.diags_array(inverse) @ cotangent_weights(mesh)).tocsr()


def combinatorial_laplacian(mesh: Mesh) -> sp.csr_array:
    """The symmetric normalised graph Laplacian `I - D^-1/2 A D^-1/2` (V, V); zero rows for unreferenced vertices."""
    i, j = mesh.edges[mesh.edges[:, 0] != mesh.edges[:, 1]].T
    graph = sp.coo_array((np.ones(len(i)), (i, j)), shape=(len(mesh.vertices),) * 2).tocsr()
    graph = graph + graph.T
    degrees = graph.sum(axis=1)
    scale = sp.diags_array(np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0))
    return (sp.diags_array((degrees > 0).astype(np.float64)) - scale @ graph @ scale).tocsr()


def largest_eigenvalue(laplacian: sp.csr_array) -> float:
    """The largest eigenvalue of a Laplacian of this module.

    `A⁻¹W` is similar to the symmetric `A^-1/2 W A^-1/2`, whose entries are `±sqrt(L_ij L_ji)`. Lanczos starts from
    a fixed vector, so that the same mesh gives the same number; should it fail, Gershgorin's bound, which is never
    too small, takes its place.
    """
    symmetric = _symmetrised(laplacian)
    if symmetric.shape[0] <= DENSE_SIZE:
        return float(np.linalg.eigvalsh(symmetric.toarray())[-1])
    start = np.random.default_rng(0).standard_normal(symmetric.shape[0])
    try:
        return float(eigsh(symmetric, k=1, which="LA", v0=start, return_eigenvectors=False)[0])
    except (ArpackNoConvergence, ArpackError):
        return float(abs(symmetric).sum(axis=1).max())


def rescale(laplacian: sp.csr_array, lambda_max: float) -> sp.csr_array:
    """`2 L / λmax - I`: eigenvalues from [0, λmax] to [-1, 1]; a Laplacian of zeros becomes `-I`."""
    factor = 2.0 / lambda_max if lambda_max > 0 else 0.0
    return (factor * laplacian - sp.eye_array(laplacian.shape[0])).tocsr()


def _symmetrised(laplacian: sp.csr_array) -> sp.csr_array:
    products = laplacian.multiply(laplacian.T).tocsr()
    products.data = np.sqrt(np.maximum(products.data, 0.0))
    return laplacian.sign().multiply(products).tocsr()


@lru_cache(maxsize=1)  # weights and areas of one mesh are asked for in turn
def _metric(mesh: Mesh) -> tuple[Integers, Floats, Floats]:
    """Distinct triangles with area (F, 3), the length (F, 3) of the edge opposite each corner, the areas (F,)."""
    _, first = np.unique(np.sort(mesh.triangles, axis=1), axis=0, return_index=True)
    triangles = mesh.triangles[np.sort(first)]
    ends = mesh.vertices[triangles[:, [1, 2, 0]]] - mesh.vertices[triangles[:, [2, 0, 1]]]
    lengths = np.linalg.norm(ends, axis=2)
    areas = _areas(lengths)
    sound = areas > DEGENERATE * lengths.max(axis=1, initial=0.0) ** 2
    return triangles[sound], lengths[sound], areas[sound]


def _areas(lengths: Floats) -> Floats:
    """Triangle areas from edge lengths: Heron's formula in Kahan's order, which does not cancel on needles."""
    c, b, a = np.sort(lengths, axis=1).T
    product = (a + (b + c)) * (c - (a - b)) * (c + (a - b)) * (a + (b - c))
    return np.sqrt(np.maximum(product, 0.0)) / 4


@dataclass(frozen=True, eq=False)
class BandFilter:
    """A mesh prepared for measuring energies by `bands` (longest, shortest) of wavelength in mm."""

    bands: tuple[tuple[float, float], ...]
    cuts: Floats  # (C,) the λ of all ends of bands, ascending
    order: NDArray[np.int64]  # (V,) the vertices so that neighbours are near in memory; what follows is in this order
    roots: NDArray[np.float32]  # (V,) square roots of the areas; zero at vertices without one
    area: float
    harmonics: NDArray[np.float32]  # (K, V) exact ones times `roots`, orthonormal
    places: NDArray[np.int64]  # (K,) which interval between cuts each of them lies in
    matrix: sp.csr_array | None  # 2 (I - 2 L / λmax), symmetric; None if all harmonics are exact
    series: Floats  # (C, degrees) Chebyshev coefficients of what lies below each cut

    @classmethod
    def of(cls, mesh: Mesh, bands: Sequence[tuple[float, float]] = BANDS) -> "BandFilter":
        """Prepare a mesh in mm. Raises `UsageError` for bands that are none, or a mesh without area."""
        checked = tuple((float(longest), float(shortest)) for longest, shortest in bands)
        if not checked or not all(0 <= shortest < longest for longest, shortest in checked):
            raise UsageError("a band is a pair of wavelengths in mm, the longer one first.")
        areas = mass(mesh)
        if not areas.sum() > 0:
            raise UsageError("a mesh without area has no harmonics.")
        ends = {end for band in checked for end in band if 0 < end < np.inf}
        cuts = np.array(sorted((2 * np.pi / end) ** 2 for end in ends))
        roots = np.sqrt(areas)
        inverse = sp.diags_array(np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 0))
        symmetric = (inverse @ cotangent_weights(mesh) @ inverse).tocsr()
        order = reverse_cuthill_mckee(symmetric, symmetric_mode=True).astype(np.int64)
        symmetric, roots = symmetric[order][:, order], roots[order]
        values, vectors = _longest(symmetric, roots > 0, cuts, areas.sum())
        largest = 1.01 * largest_eigenvalue(cotangent_laplacian(mesh))
        known = len(values) == np.count_nonzero(roots)
        series, matrix = np.zeros((len(cuts), 2)), None
        if not known:
            series = _edges(cuts, cuts > values.max(initial=0.0), largest)
            matrix = (2 * sp.eye_array(len(roots)) - (4 / largest) * symmetric).tocsr().astype(np.float32)
            matrix.sort_indices()
        places = np.searchsorted(cuts, values)
        harmonics = np.ascontiguousarray(vectors.T, dtype=np.float32)
        area = float(areas.sum())
        return cls(checked, cuts, order, roots.astype(np.float32), area, harmonics, places, matrix, series)

    def energies(self, displacements: NDArray[np.floating]) -> Floats:
        """Energies (N, B) in mm² of displacement fields (N, V, 3) in mm by band, on all cores."""
        if displacements.ndim != 3 or displacements.shape[1:] != (len(self.roots), 3):
            raise UsageError(f"expected displacements (N, {len(self.roots)}, 3), not {displacements.shape}.")
        width = COLUMNS // 3
        blocks = [slice(start, start + width) for start in range(0, len(displacements), width)]
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda rows: self._intervals(displacements[rows]), blocks))
        intervals = np.concatenate(parts) if parts else np.zeros((0, len(self.cuts) + 1))
        below = np.concatenate([np.zeros((len(intervals), 1)), np.cumsum(intervals, axis=1)], axis=1)
        return np.stack([below[:, self._edge(short)] - below[:, self._edge(long)] for long, short in self.bands], 1)

    def _edge(self, wavelength: float) -> int:
        """How many intervals between cuts lie at longer wavelengths."""
        if wavelength == 0:
            return len(self.cuts) + 1
        return 0 if wavelength == np.inf else 1 + int(np.argmin(abs(self.cuts - (2 * np.pi / wavelength) ** 2)))

    def _intervals(self, displacements: NDArray[np.floating]) -> Floats:
        """Energies (n, C + 1) between neighbouring cuts, of at most COLUMNS / 3 fields."""
        count = 3 * len(displacements)
        columns = np.zeros((len(self.roots), COLUMNS), np.float32)
        ordered = np.asarray(displacements, np.float32)[:, self.order]
        columns[:, :count] = ordered.transpose(1, 0, 2).reshape(len(columns), count)
        columns *= self.roots[:, None]
        found = np.zeros((len(self.cuts) + 1, COLUMNS))
        codes = self.harmonics @ columns
        np.add.at(found, self.places, np.square(codes, dtype=np.float64))
        if self.matrix is not None:
            columns -= self.harmonics.T @ codes
            moments = _moments(self.matrix, columns, self.series.shape[1])
            below = np.maximum.accumulate(np.vstack([self.series @ moments, moments[:1]]), axis=0)
            found += np.diff(np.maximum(below, 0.0), axis=0, prepend=0.0)
        return found[:, :count].reshape(len(found), -1, 3).sum(axis=2).T / self.area


def _longest(symmetric: sp.csr_array, solid: NDArray[np.bool_], cuts: Floats, area: float) -> tuple[Floats, Floats]:
    """Eigenvalues (K,) ascending and eigenvectors (V, K) up to the last cut that few enough of them lie below."""
    rows = np.flatnonzero(solid)
    inner = symmetric[rows][:, rows]
    expected = 1.15 * cuts * area / (4 * np.pi) + 16  # Weyl's law, and some for the boundary
    affordable = expected[expected <= min(HARMONICS, HARMONIC_NUMBERS // len(rows), len(rows) // 3)]
    if len(rows) <= DENSE:
        values, inner_vectors = np.linalg.eigh(inner.toarray())
    else:
        count = int(affordable[-1]) if len(affordable) else 8
        start = np.random.default_rng(0).standard_normal(len(rows))
        shift = -1e-3 * 4 * np.pi / area  # W has constants as its kernel
        values, inner_vectors = eigsh(inner.tocsc(), k=count, sigma=shift, which="LM", v0=start, tol=1e-9)
    order = np.argsort(values)
    vectors = np.zeros((len(solid), len(values)))
    vectors[rows] = inner_vectors[:, order]
    return np.maximum(values[order], 0.0), vectors


def _edges(cuts: Floats, soft: NDArray[np.bool_], largest: float) -> Floats:
    """Chebyshev coefficients (C, degrees) of 1 below each cut and 0 above; zero for cuts that are not `soft`.

    On x = cos φ = 1 - 2 λ / λmax, φ is nearly the wave number. A step at φ₀, smoothed there by a Gaussian of deviation
    σ, has the coefficients 2 sin(k φ₀) / (π k) exp(-k² σ² / 2): they end where the exponential does.
    """
    place = np.arccos(np.clip(1 - 2 * cuts / largest, -1.0, 1.0))
    deviation = max(EDGE * place[soft].min(), REACH / DEGREES) if soft.any() else 1.0
    degree = np.arange(1, 2 * int(np.ceil(REACH / deviation / 2)) + 2)
    damping = np.exp(-0.5 * (degree * deviation) ** 2)
    series = np.column_stack([place / np.pi, 2 / np.pi * np.sin(np.outer(place, degree)) / degree * damping])
    return np.where(soft[:, None], series, 0.0)


def _moments(matrix: sp.csr_array, columns: NDArray[np.float32], degrees: int) -> Floats:
    """⟨d, T_k d⟩ (degrees, COLUMNS) for each column d, k from 0 to degrees - 1, an even number of them.

    From ⟨T_i d, T_j d⟩ = (μ_{i+j} + μ_{|i-j|}) / 2, two moments for each product with the matrix, which is 2 X.
    """
    previous, current = columns.copy(), np.float32(0.5) * (matrix @ columns)
    moments = np.zeros((degrees, columns.shape[1]))
    moments[0] = np.square(previous, dtype=np.float64).sum(axis=0)
    moments[1] = np.multiply(previous, current, dtype=np.float64).sum(axis=0)
    squares, products = np.zeros((2, degrees // 2, columns.shape[1]))
    squares[0] = np.square(current, dtype=np.float64).sum(axis=0)
    _recurrence(matrix.indptr, matrix.indices, matrix.data, current, previous, squares[1:], products[1:])
    moments[2::2] = 2 * squares[: len(moments[2::2])] - moments[0]
    moments[3::2] = 2 * products[1:] - moments[1]
    return moments


@compiled(fastmath=SUMS_IN_ANY_ORDER)
def _recurrence(starts, indices, weights, current, previous, squares, products):  # type: ignore[no-untyped-def]
    """T ← 2 X T - T₋₁, in place, with the sums ⟨T, T⟩ and ⟨T, T₋₁⟩ of every step."""
    square, product = np.zeros(COLUMNS, np.float32), np.zeros(COLUMNS, np.float32)
    for step in range(len(squares)):
        for i in range(len(current)):
            row, middle = previous[i], current[i]
            for c in range(COLUMNS):
                row[c] = -row[c]
            for k in range(starts[i], starts[i + 1]):
                weight, other = weights[k], current[indices[k]]
                for c in range(COLUMNS):
                    row[c] += weight * other[c]
            for c in range(COLUMNS):
                square[c] += row[c] * row[c]
                product[c] += row[c] * middle[c]
            if i % CHUNK == CHUNK - 1 or i == len(current) - 1:
                for c in range(COLUMNS):
                    squares[step, c] += square[c]
                    products[step, c] += product[c]
                    square[c] = product[c] = np.float32(0.0)
        current, previous = previous, current
