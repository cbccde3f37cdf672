"""Optimal-step non-rigid ICP (Amberg, Romdhani and Vetter, CVPR 2007), from coarse to fine.

Every node of the template carries an affine map X_n (4, 3). A step minimises

    sum_v w_v |(D X)_v - u_v|^2  +  beta sum_l |(B D X)_l - t_l|^2  +  alpha sum_(m,n) |G (X_m - X_n)|_F^2

over all maps at once, where u_v are the closest points under the present deformation, w_v tests and robust
weights, t_l landmarks and G = diag(1, 1, 1, gamma). Stiffness alpha falls from step to step.

In the paper the nodes are the vertices, and D is block diagonal. Here the nodes are first the vertices of a coarser
level, whose maps are blended over the fine vertices, which costs a fraction and is the same energy. What coarse
nodes cannot express is added at the end as a smooth displacement of the vertices themselves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from meshgan.arrays import Floats, Integers
from meshgan.registration.banded import BandedForm
from meshgan.registration.prior import Anchors
from meshgan.registration.surface import Pull

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
FACING = 0.7  # least cosine between the normals of a vertex and of its closest point


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
    forms = [_map_form(level, start, anchors.rows) for level in nodes]
    forms.append(_displacement_form(edges, anchors.rows, len(start)))
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
