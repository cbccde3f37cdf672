"""A linear model of faces, fitted to a scan before the template is let go: it keeps correspondences from sliding.

Plain non-rigid ICP finds the surface but slides along it; a face model knows where on a face a surface like this
lies. The fit is a sequence of robust least-squares problems in the model's coefficients and the pose together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.transform import Rotation

from meshgan.arrays import Floats, Integers, Reals, Singles
from meshgan.data.principal import principal_components
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.decomposition import principal_axes
from meshgan.registration.scan import Met, Pull


@dataclass(frozen=True, eq=False)
class Prior:
    """Faces `mean + sum_k b_k basis_k`: mean (V, 3), basis (3, K, V) in millimetres per standard deviation.

    The basis is float32 with the coordinate in front: the fit spends its time in long products over vertices.
    """

    mean: Floats
    basis: Singles

    def shape(self, coefficients: Floats) -> Floats:
        """The face (V, 3) with the first of the coefficients (K,), as many as there are."""
        return self.mean + np.einsum("k,ckv->vc", coefficients.astype(np.float32), self.basis[:, : len(coefficients)])

    def remainder(self, face: Floats) -> Floats:
        """How far the vertices of a face (V, 3) are from the likeliest one that the model says of it: (V,) in mm."""
        basis, factor = self._spanned
        away = (rigid(face, self.mean)(face) - self.mean).T.astype(np.float32).ravel()
        coefficients = cho_solve(factor, (basis @ away).astype(np.float64)) * APART / len(self.mean)
        left = (away - coefficients.astype(np.float32) @ basis).reshape(3, -1)
        return np.asarray(np.linalg.norm(left, axis=0), dtype=np.float64)

    @cached_property
    def _spanned(self) -> tuple[Singles, tuple[Floats, bool]]:
        """The basis as rows (K, 3V), and what the coefficients of a whole face are solved by."""
        basis = self.basis.transpose(1, 0, 2).reshape(self.basis.shape[1], -1)
        matrix = (basis @ basis.T).astype(np.float64) * APART / len(self.mean) + np.eye(len(basis))
        return basis, cho_factor(matrix, lower=True)

    def at(self, places: Integers | sp.csr_array) -> "Prior":
        """The same of some vertices (N,), or of combinations of them (N, V)."""
        if isinstance(places, np.ndarray):
            return Prior(self.mean[places], np.ascontiguousarray(self.basis[:, :, places]))
        basis = np.stack([(places @ part.T).T for part in self.basis])
        return Prior(places @ self.mean, basis.astype(np.float32))


def learn(faces: Singles, components: int) -> Prior:
    """Principal components of `faces` (N, V, 3), with signs and order that every machine agrees on."""
    found = principal_components(faces, np.arange(len(faces)), components)
    basis = np.sqrt(found.variances)[:, None, None] * found.axes
    return Prior(found.mean.astype(np.float64), np.ascontiguousarray(basis.transpose(2, 0, 1), dtype=np.float32))


def blended(one: Prior, other: Prior, components: int) -> Prior:
    """The model of people of whom half are drawn from `one`, laid where `other` lies, and half from `other`.

    The covariance is the mean of the two, and of a direction more: that between the two means.
    """
    laid = rigid(one.mean, other.mean)
    mean = laid(one.mean)
    turned = np.einsum("dc,ckv->dkv", laid.rotation.astype(np.float32), one.basis)
    between = ((mean - other.mean) / 2).T[:, None].astype(np.float32)
    rows = np.concatenate([np.sqrt(0.5) * turned, np.sqrt(0.5) * other.basis, between], axis=1, dtype=np.float32)
    variances, axes = principal_axes(rows.transpose(1, 0, 2).reshape(rows.shape[1], -1), components)
    lengths = np.sqrt(variances * (rows.shape[1] - 1))
    basis = (lengths[:, None] * axes).reshape(len(axes), 3, -1).transpose(1, 0, 2)
    return Prior((mean + other.mean) / 2, np.ascontiguousarray(basis, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Anchors:
    """Points known on both sides: `rows` (L, V) combine template vertices, `targets` (L, 3), `sigma` (L,) in mm.

    Those that a detector `found` err together, mouth by mouth and brow by brow: good to begin with, and no more. How
    many times their sigma that may count as at most is their `together` (L,), where it is known.
    """

    rows: sp.csr_array
    targets: Floats
    sigma: Floats
    found: bool = False
    together: Floats | None = None

    def some(self, kept: Integers) -> "Anchors":
        """Those of the numbers `kept`."""
        together = None if self.together is None else self.together[kept]
        return replace(
            self, rows=self.rows[kept], targets=self.targets[kept], sigma=self.sigma[kept], together=together
        )

    def sigma_at(self, step: "FitStep") -> Floats:
        """What the sigma of each (L,) counts as at a step of the fit."""
        if not self.found:
            return self.sigma
        return self.sigma * (step.together if self.together is None else np.minimum(step.together, self.together))


@dataclass(frozen=True)
class FitStep:
    """One stage of the fit: iterations, how many components are free, and the widths of the tests in mm."""

    iterations: int
    components: int
    far: float  # closest points beyond this are not believed
    surface_sigma: float  # of one closest point, at least
    together: float = 1.0  # times the sigma of landmarks that a detector found
    say: float = 1.0  # times the weight of all landmarks: as many times as more vertices are drawn


FIT = (
    FitStep(2, 30, 0.0, np.inf, 1.0),  # landmarks alone
    FitStep(3, 30, 15.0, 4.0, 3.0),
    FitStep(3, 80, 8.0, 1.0, 4.0),
    FitStep(3, 400, 4.0, 0.2, 4.0),
)
FINE = FitStep(8, 401, 3.0, 0.2, 4.0)  # of all vertices, where some of them have come near
MEETING = 1.5  # times the width of a test: so far the surface looks for vertices
FACING = 0.7  # least cosine between the normals of a vertex and of its closest point
SCALE_SIGMA = 0.02  # faces are so much larger or smaller than the model knows
TOGETHER = 3.0  # closest points err together: this many of their scatter count as the sigma of one
APART = 250  # of a whole face's vertices, so many err each for itself, by a millimetre
UNSURE = 3.0  # sigmas beyond which a landmark loses its say
MEDIAN = 1.538  # sigmas that half of all Gaussian vectors in space are shorter than


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fit: where the model lies in the scan (V, 3), with the coefficients and the pose that say so."""

    vertices: Floats
    coefficients: Floats
    pose: Similarity


def fit(
    prior: Prior,
    anchors: Anchors,
    start: Similarity | Fitted,
    pull: Callable[[Floats], Pull],
    scale_sigma: float = SCALE_SIGMA,
    schedule: tuple[FitStep, ...] = FIT,
    chosen: Integers | None = None,
    meeting: Callable[[Floats], Met] | None = None,
) -> Fitted:
    """Fit the model to landmarks, then to landmarks and a surface, which draws the `chosen` vertices by `pull`.

    It starts from the mean face in a pose, or goes on from an earlier fit of the same model.
    `pull` is given where those (N, 3) lie; without a choice, all (V, 3). So is `meeting`, which says what of them the
    surface meets: vertices look for the surface, and the surface for vertices, or what lies far from all of them would
    have no say. Each iteration solves for coefficients, turn,
    shift and growth together: point to point at landmarks, point to plane on the surface, with a standard normal prior
    on the coefficients.
    """
    drawn = prior if chosen is None else prior.at(chosen)
    marks = prior.at(anchors.rows)
    if isinstance(start, Fitted):
        fitted = replace(start, vertices=start.pose(drawn.shape(start.coefficients)))
    else:
        fitted = Fitted(start(drawn.mean), np.zeros(0), start)
    for step in schedule:
        for _ in range(step.iterations):
            equations = _landmark_rows(marks, anchors, fitted, step)
            if step.far > 0:
                added = _surface_rows(drawn, pull(fitted.vertices), fitted, step)
                equations = [a + b for a, b in zip(equations, added, strict=True)]
                if meeting is not None:
                    added = _meeting_rows(drawn, meeting(fitted.vertices), fitted, step)
                    equations = [a + b for a, b in zip(equations, added, strict=True)]
            fitted = _solve(drawn, fitted, scale_sigma, *equations)
    coefficients = np.zeros(prior.basis.shape[1])
    coefficients[: len(fitted.coefficients)] = fitted.coefficients
    return Fitted(fitted.pose(prior.shape(coefficients)), coefficients, fitted.pose)


def _landmark_rows(marks: Prior, anchors: Anchors, fitted: Fitted, step: FitStep) -> list[Floats]:
    """Normal equations of the landmarks: each a robust point-to-point term."""
    here = fitted.pose(marks.shape(fitted.coefficients))
    # (3, K, L): how the coefficients move the landmarks, in the scan's frame
    local = marks.basis[:, : step.components]
    basis = fitted.pose.scale * np.einsum("dc,ckl->kld", fitted.pose.rotation, local)
    sigma = anchors.sigma_at(step)
    away = np.linalg.norm(anchors.targets - here, axis=1) / anchors.sigma
    weights = step.say * (1 + (away / UNSURE) ** 2) ** -2 / sigma**2
    if anchors.found and len(away) and step.far > 0:  # a detector that errs by more than it should is believed less
        weights /= max(1.0, float(np.median(away)) / MEDIAN) ** 2
    jacobian = np.concatenate([basis, _motions(here, fitted)])
    jacobian = jacobian.reshape(len(jacobian), -1)
    return _normal_equations(jacobian, (anchors.targets - fitted.pose(marks.mean)).ravel(), np.repeat(weights, 3))


def _surface_rows(drawn: Prior, pull: Pull, fitted: Fitted, step: FitStep) -> list[Floats]:
    """Normal equations of the closest points: each a robust point-to-plane term.

    Their sigma is what the scatter of the distances says: a face that the model describes well is followed closely,
    another one loosely, so that the model is not bent to say what it cannot.
    """
    weights = pull.weights(step.far, FACING)
    every = np.arange(len(weights))
    return _plane_rows(drawn, every, pull.points, pull.normals, weights, fitted, step)


def _meeting_rows(drawn: Prior, met: Met, fitted: Fitted, step: FitStep) -> list[Floats]:
    """Normal equations of what the surface meets: point-to-plane terms too, which count as much as those of as many
    vertices as are met at all."""
    weights = np.clip(1 - (met.distance / (MEETING * step.far)) ** 2, 0, None) ** 2
    near = np.flatnonzero(weights)
    share = len(np.unique(met.vertices[near])) / max(len(near), 1)
    points, normals = met.points[near], met.normals[near]
    return _plane_rows(drawn, met.vertices[near], points, normals, share * weights[near], fitted, step)


def _plane_rows(
    drawn: Prior, vertices: Integers, points: Floats, normals: Floats, weights: Floats, fitted: Fitted, step: FitStep
) -> list[Floats]:
    """Normal equations of vertices (N,), each drawn by its weight to the plane of a point and a normal (N, 3)."""
    here = fitted.vertices[vertices]
    away = np.einsum("vc,vc->v", points - here, normals)[weights > 0]
    scatter = 1.48 * float(np.median(np.abs(away))) if len(away) else step.far
    sigma = max(step.surface_sigma, TOGETHER * scatter)
    turned = (fitted.pose.scale * normals @ fitted.pose.rotation).astype(np.float32)
    basis = np.einsum("vc,ckv->kv", turned, drawn.basis[:, : step.components, vertices])
    motions = np.einsum("kvc,vc->kv", _motions(fitted.vertices, fitted)[:, vertices], normals)
    residual = np.einsum("vc,vc->v", points - fitted.pose(drawn.mean)[vertices], normals)
    return _normal_equations(np.concatenate([basis, motions.astype(np.float32)]), residual, weights / sigma**2)


def _motions(points: Floats, fitted: Fitted) -> Floats:
    """How points (N, 3) move under a small turn, shift and growth: (7, N, 3)."""
    arms = points - fitted.vertices.mean(axis=0)
    turns = np.cross(np.eye(3)[:, None], arms[None])
    shifts = np.broadcast_to(np.eye(3)[:, None], (3, *points.shape))
    return np.concatenate([turns, shifts, arms[None]])


def _normal_equations(jacobian: Reals, residual: Floats, weights: Floats) -> list[Floats]:
    """`J W J'` (P, P) and `J W r` (P,) of `jacobian` (P, N)."""
    root = np.sqrt(weights).astype(jacobian.dtype)
    weighted = jacobian * root
    return [
        (weighted @ weighted.T).astype(np.float64),
        (weighted @ (root * residual).astype(jacobian.dtype)).astype(np.float64),
    ]


def _solve(drawn: Prior, fitted: Fitted, scale_sigma: float, matrix: Floats, right: Floats) -> Fitted:
    """The next coefficients and pose; the coefficients are absolute, the motions relative to the present pose."""
    count = len(right) - 7
    penalty = np.concatenate([np.ones(count), np.full(6, 1e-12), [1 / scale_sigma**2]])
    # the growth so far counts against the prior of the scale, not only this iteration's
    right = right - np.concatenate([np.zeros(count + 6), [np.log(fitted.pose.scale) / scale_sigma**2]])
    solution = np.linalg.solve(matrix + np.diag(penalty), right)
    coefficients: Floats = np.asarray(solution[:count], dtype=np.float64)
    turn = Rotation.from_rotvec(solution[count : count + 3]).as_matrix()
    growth = float(np.exp(np.clip(solution[-1], -0.2, 0.2)))
    middle = fitted.vertices.mean(axis=0)
    shift = middle + solution[count + 3 : count + 6]
    pose = Similarity(
        fitted.pose.scale * growth,
        turn @ fitted.pose.rotation,
        growth * turn @ (fitted.pose.translation - middle) + shift,
    )
    return Fitted(pose(drawn.shape(coefficients)), coefficients, pose)
