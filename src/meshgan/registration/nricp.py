"""Optimal-step non-rigid ICP (Amberg, Romdhani and Vetter, CVPR 2007), from coarse to fine.

Every node of the template carries an affine map X_n (4, 3). A step minimises

    sum_v w_v |(D X)_v - u_v|^2  +  beta sum_l |(B D X)_l - t_l|^2  +  alpha sum_(m,n) |G (X_m - X_n)|_F^2

over all maps at once, where u_v are the closest points under the present deformation, w_v tests and robust
weights, t_l landmarks and G = diag(1, 1, 1, gamma). Stiffness alpha falls from step to step.

In the paper the nodes are the vertices, and D is block diagonal. Here the nodes are first the vertices of a coarser
level, whose maps are blended over the fine vertices, which costs a fraction and is the same energy. What coarse
nodes cannot express is added at the end as a smooth displacement of the vertices themselves.

The systems are solved by LAPACK's banded Cholesky factorisation: vertices of a mesh, ordered by Cuthill and McKee's
breadth-first search, touch only vertices near them in the order. On graphs of the size of a face template that beats
the sparse direct solvers that pip installs everywhere (SuperLU, CHOLMOD through cholespy, QDLDL). At the end, folded
triangles are found and ironed out without touching the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.sparse.csgraph import reverse_cuthill_mckee

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.geometry.mesh import Mesh
from meshgan.registration.prior import Anchors
from meshgan.registration.scan import Pull


class BandedForm:
    """Minimises `alpha x'Kx + sum_m w_m |rows_m x - t_m|^2`, for many alphas, weights w and targets t.

    K (N, N) is symmetric, `rows` (M, N) are the linear forms that data weigh. Unknowns come in blocks of `block`
    that are ordered together. The order and the pattern of K are worked out once.
    """

    def __init__(self, stiffness: sp.csr_array, rows: sp.csr_array, block: int = 1) -> None:
        self.rows = rows
        self._order = _block_order(stiffness, rows, block)
        self._stiffness = sp.csr_array(stiffness[self._order][:, self._order])
        self._placed = sp.csr_array(rows[:, self._order])
        self._transposed = sp.csr_array(self._placed.T)

    def solve(self, alpha: float, weights: Floats, targets: Floats) -> Floats:
        """The minimiser x (N, C) for weights (M,) and targets (M, C)."""
        weighted = sp.diags_array(weights) @ self._placed
        matrix = sp.coo_array(alpha * self._stiffness + self._transposed @ weighted)
        band = _band(matrix.row, matrix.col, matrix.data, matrix.shape[0])
        factor = cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
        solution = np.empty((len(self._order), targets.shape[1]))
        right = self._transposed @ (weights[:, None] * targets)
        solution[self._order] = cho_solve_banded((factor, True), right, overwrite_b=True, check_finite=False)
        return solution


def _block_order(stiffness: sp.csr_array, rows: sp.csr_array, block: int) -> Integers:
    """Cuthill-McKee order of the nodes (blocks of unknowns) of the whole pattern, spelt out for the unknowns."""
    count = stiffness.shape[0]
    member = sp.csr_array((np.ones(count), (np.arange(count) // block, np.arange(count))))
    nodes = [
        sp.csr_array(member @ abs(matrix)) @ member.T for matrix in (stiffness, sp.csr_array(abs(rows).T @ abs(rows)))
    ]
    order = reverse_cuthill_mckee(sp.csr_matrix(nodes[0] + nodes[1]), symmetric_mode=True).astype(np.int64)
    return np.asarray(block * order[:, None] + np.arange(block)).ravel()


def _band(i: Integers, j: Integers, values: Floats, count: int) -> Floats:
    """The lower triangle of a symmetric matrix as LAPACK holds it: diagonals as rows."""
    lower = i >= j
    below = i[lower] - j[lower]
    band = np.zeros((int(below.max()) + 1, count))
    band[below, j[lower]] = values[lower]
    return band


UNIT = 100.0  # mm: turning a map by 0.01 counts like shifting it by 1 mm
GAMMA = 1.0  # weight of shifts against turns in the stiffness term


@dataclass(frozen=True)
class Step:
    """One stiffness of the schedule."""

    nodes: int  # which of the node graphs carries the maps; -1: displacements of the vertices
    stiffness: float
    landmarks: float  # beta: weight of one landmark against one vertex
    far: float  # mm: closest points beyond this are not believed
    iterations: int


SCHEDULE = (
    Step(0, 50.0, 0.5, 8.0, 2),
    Step(1, 10.0, 0.1, 6.0, 2),
    Step(1, 1.0, 0.0, 4.0, 2),
    Step(-1, 0.5, 0.0, 3.0, 2),
    Step(-1, 0.2, 0.0, 3.0, 2),
)
FACING = 0.5  # least cosine between the normals of a vertex and of its closest point


@dataclass(frozen=True, eq=False)
class Nodes:
    """A graph of nodes: `edges` (E, 2), and `blend` (V, N), the share that each node's map has in each vertex."""

    edges: Integers
    blend: sp.csr_array


@dataclass(frozen=True, eq=False)
class State:
    """Where an iteration stands: the step, the vertices (V, 3), and the weights (V,) of their closest points."""

    step: Step
    vertices: Floats
    weights: Floats
    moved_mm: float  # mean over the vertices


def nonrigid_icp(
    start: Floats,
    pull: Callable[[Floats], Pull],
    nodes: tuple[Nodes, ...],
    edges: Integers,
    anchors: Anchors,
    schedule: tuple[Step, ...] = SCHEDULE,
) -> Iterator[State]:
    """Deform a template that lies at `start` (V, 3) onto a surface, which draws it by `pull`.

    `edges` (E, 2) are the template's own. Yields after every iteration; the caller may stop at any time, each state
    is a whole result.
    """
    forms = {
        number: _displacement_form(edges, anchors.rows, len(start))
        if number == -1
        else _map_form(nodes[number], start, anchors.rows)
        for number in {step.nodes for step in schedule}
    }
    certainty = (anchors.sigma.min(initial=np.inf) / anchors.sigma) ** 2
    vertices, base, present = start, np.zeros_like(start), 0
    for step in schedule:
        if step.nodes != present:  # displacements add to what the maps have reached
            base, present = (vertices if step.nodes == -1 else np.zeros_like(start)), step.nodes
        for _ in range(step.iterations):
            drawn = pull(vertices)
            weights = drawn.weights(step.far, FACING)
            targets = np.concatenate([drawn.points, anchors.targets]) - _with_rows(base, anchors.rows)
            form = forms[step.nodes]
            solution = form.solve(step.stiffness, np.concatenate([weights, step.landmarks * certainty]), targets)
            moved = base + form.rows[: len(start)] @ solution
            change = float(np.linalg.norm(moved - vertices, axis=1).mean())
            vertices = moved
            yield State(step, vertices, weights, change)


def _with_rows(vertices: Floats, rows: sp.csr_array) -> Floats:
    return np.concatenate([vertices, rows @ vertices])


def _map_form(nodes: Nodes, rest: Floats, landmark_rows: sp.csr_array) -> BandedForm:
    """The energy in the nodes' maps X (4 N, 3); `rows` of the form are D over B D."""
    middle = rest.mean(axis=0)
    homogeneous = np.concatenate([(rest - middle) / UNIT, np.ones((len(rest), 1))], axis=1)
    blend = nodes.blend.tocoo()
    columns = 4 * blend.col[:, None] + np.arange(4)
    values = blend.data[:, None] * homogeneous[blend.row]
    shape = (len(rest), 4 * nodes.blend.shape[1])
    maps = sp.coo_array((values.ravel(), (np.repeat(blend.row, 4), columns.ravel())), shape=shape).tocsr()
    weights = np.diag([1.0, 1.0, 1.0, GAMMA**2])
    stiffness = sp.kron(_laplacian(nodes.edges, nodes.blend.shape[1]), weights)
    return BandedForm(sp.csr_array(stiffness), sp.csr_array(sp.vstack([maps, landmark_rows @ maps])), block=4)


def _displacement_form(edges: Integers, landmark_rows: sp.csr_array, count: int) -> BandedForm:
    """The energy in displacements (V, 3) of the vertices: `rows` are the identity over B."""
    rows = sp.vstack([sp.eye_array(count), landmark_rows])
    return BandedForm(_laplacian(edges, count), sp.csr_array(rows))


def _laplacian(edges: Integers, count: int) -> sp.csr_array:
    """`M'M` (N, N) of the node-arc incidence matrix M: the sum of squared differences along edges."""
    i, j = edges.T
    arcs = np.arange(len(edges))
    values = np.concatenate([np.ones(len(edges)), -np.ones(len(edges))])
    incidence = sp.coo_array((values, (np.tile(arcs, 2), np.concatenate([i, j]))), shape=(len(edges), count)).tocsr()
    return sp.csr_array(incidence.T @ incidence)


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
