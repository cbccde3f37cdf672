"""Lids that roll over the eyeball.

The eyeballs are part of the template's surface: vertices that no facial action moves. Each face has its own ball,
the sphere through them. A lid turns about the axis through the ball's centre from canthus to canthus, so that a
vertex keeps its distance from the centre at every strength. How far it turns is a share of the opening of *this* face
there; the shares of the lower lid, raised by l, and of the upper one, lowered by u, never exceed the opening:

    l = 1 - (1 - 0.30 s) (1 - 0.20 c) (1 - 0.10 b) - 0.06 d (1 - b) (1 - s)
    u = (1 - l) (1 - (1 - b) (1 - 0.20 s) (1 - 0.40 d)) - (1 - b) (1 - d) (1 - 0.7 s) (0.36 w + 0.12 t)

with the strengths of eyeBlink b, eyeSquint s, cheekSquint c, eyeLookDown d, eyeWide w and eyeLookUp t. What other
actions do to the lids is let through only where skin is not lid, and no vertex of a lid gets into the ball or off it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Floats, Integers, Reals, Singles
from meshgan.data.corpora.basis import FaceBasis
from meshgan.geometry.mesh import Mesh

LID_ACTIONS = ("eyeBlink", "eyeSquint", "eyeWide", "eyeLookDown", "eyeLookUp", "eyeLookIn", "eyeLookOut")
MOVED_MM = 0.05  # by which opening, narrowing or closing an eye moves whatever may be a lid
CLINGING_MM = (4.5, 8.0)  # distance from the ball within which skin belongs to it, and beyond which it does not
LID_MM = (4.0, 10.0)  # distance from the margins at rest, likewise
BLUR_MM, BLUR_ALONG_MM = (0.5, 5.0), 3.0  # skin so far from the margins follows the mean of so much of them
AROUND_MM = 20.0  # from the ball: skin that actions may push into it
LIFT_MM = 0.2  # no vertex of a lid is lifted off the ball by more than this and its distance at rest
TOUCH = np.radians(2.5)  # between the inner edges of lids whose front edges touch
FLAT_MM, FLATTENED = 2.5, 0.35  # skin further than this from the ball comes nearer as the fold unrolls, by that share
SOFT_MM = 0.06  # over which a limit is approached
LEAST_TURN = 0.04  # radians: where an action turns a margin less, it does not tell how far the skin follows


@dataclass(frozen=True, eq=False)
class Balls:
    """One eyeball of each of B faces: `centre` (B, 3) and `radius` (B,) in mm, and a frame (B, 3, 3) whose rows are
    the axis from canthus to canthus, up, and ahead."""

    centre: Floats
    radius: Floats
    frame: Floats

    def polar(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Of points (B, N, 3): the place along the axis and the distance from it (mm), and the angle about it."""
        along, up, ahead = np.moveaxis((points - self.centre[:, None]) @ self.frame.transpose(0, 2, 1), -1, 0)
        return along, np.hypot(up, ahead), np.arctan2(up, ahead)

    def arms(self, along: Floats, away: Floats, angle: Floats) -> Floats:
        """From the centre to the points (B, N, 3) at such places."""
        return np.stack([along, away * np.sin(angle), away * np.cos(angle)], axis=-1) @ self.frame


class Eye:
    """The lids of one eye of the template (`side` is Left or Right), and how they move on any face of it.

    `ball` (E,) are the vertices of the eyeball, `margin` (M,) those of the lids that touch it, `lids` (L,) all that
    belong to the lids more or less: `clinging` (L,) says how much; `around` are other vertices of skin near the ball.
    Skin follows the upper and the lower margin by `follows_upper` and `follows_lower` (L,).
    """

    def __init__(self, basis: FaceBasis, template: Mesh, side: str) -> None:
        self.side = side
        self.ball = eyeball(basis, template, side)
        self.margin = _around(template, self.ball)
        x = template.vertices[self.margin, 0]
        self.canthi = self.margin[[x.argmin(), x.argmax()]]
        rest = template.vertices[None]
        ball = self.balls(rest)
        moves = {what: basis.actions[basis.action_names.index(f"eye{what}{side}")] for what in ("Blink", "Squint")}
        wide = basis.actions[basis.action_names.index(f"eyeWide{side}")]
        gap = np.linalg.norm(rest[0] - ball.centre, axis=1) - ball.radius
        moved = np.max([np.linalg.norm(offsets, axis=1) for offsets in (*moves.values(), wide)], axis=0) > MOVED_MM
        moved &= (gap < CLINGING_MM[1]) & (rest[0, :, 2] > ball.centre[0, 2])
        moved[self.ball], moved[self.margin] = False, True
        self.lids = np.flatnonzero(moved)
        around = (gap < AROUND_MM) & (rest[0, :, 2] > ball.centre[0, 2]) & ~moved
        around[self.ball] = False
        self.around = np.flatnonzero(around)
        edges = template.vertices[self.margin]
        apart = np.linalg.norm(template.vertices[self.lids, None] - edges, axis=2).min(axis=1)
        self.clinging = (1 - _step(gap[self.lids], *CLINGING_MM)) * (1 - _step(apart, *LID_MM))
        along, _, angle = ball.polar(rest[:, self.lids])
        turns = {what: (ball.polar(rest[:, self.lids] + by[self.lids])[2] - angle)[0] for what, by in moves.items()}
        self._follow(along[0], angle[0], _step(apart, *BLUR_MM), turns)

    def _follow(self, along: Floats, angle: Floats, blurred: Floats, turns: Mapping[str, Floats]) -> None:
        """Learn from blinking and squinting (template, (L,)) how far skin goes with the margin beside it.

        Skin further from the margin goes with more of it (`blurred`), or it would be pinched at the canthi.
        """
        edge = np.searchsorted(self.lids, self.margin)
        order = edge[np.argsort(along[edge])]
        chord = np.interp(along[order], along[order[[0, -1]]], angle[order[[0, -1]]])
        inside = np.isin(np.arange(len(order)), (0, len(order) - 1), invert=True)
        above, below = order[inside & (angle[order] > chord)], order[inside & (angle[order] <= chord)]
        ends, column = order[[0, -1]], np.full(len(along), -1)
        column[edge] = np.arange(len(edge))

        def rows(line: Integers) -> Floats:
            """(L, M): interpolates values on the margin along one lid to the places of all lid vertices."""
            line = np.concatenate([ends[:1], line, ends[1:]])
            hats = np.stack([np.interp(along, along[line], hat) for hat in np.eye(len(line))], axis=1)
            places = np.linspace(along[line[0]], along[line[-1]], 200)
            near = np.exp(-0.5 * ((along[:, None] - places) / BLUR_ALONG_MM) ** 2)
            near /= near.sum(axis=1, keepdims=True)
            wide = near @ np.stack([np.interp(places, along[line], hat) for hat in np.eye(len(line))], axis=1)
            weights = np.zeros((len(along), len(edge)))
            weights[:, column[line]] = hats + blurred[:, None] * (wide - hats)
            return weights

        self.upper, self.lower = rows(above), rows(below)
        follows = []
        for line, weights, turn, sign in (
            (above, self.upper, turns["Blink"], -1),
            (below, self.lower, turns["Squint"], 1),
        ):
            whole = weights @ turn[edge]
            share = np.where(sign * whole > LEAST_TURN, turn / np.where(sign * whole > LEAST_TURN, whole, 1.0), 0.0)
            share = np.clip(share, 0, 1) * self.clinging
            share[edge] = 0.0
            share[line] = 1.0
            follows.append(share)
        middle = (self.upper + self.lower) @ angle[edge] / 2
        self.follows_upper = np.where(angle >= middle, follows[0], 0.0)
        self.follows_lower = np.where(angle < middle, follows[1], 0.0)
        self.held = np.maximum(self.follows_upper, self.follows_lower)
        self.held[edge] = 1.0
        self.edge = edge

    def release(self, names: Sequence[str], shapes: Floats) -> None:
        """Take out of the actions' shapes (A, V, 3), in place, what `roll` does instead, and what moves the eyeball."""
        of_lids = np.array([name.removesuffix(self.side) in LID_ACTIONS for name in names])
        shapes[np.ix_(of_lids, self.lids)] *= 1 - self.clinging[:, None]
        shapes[:, self.ball] = 0.0

    def strengths(self, names: Sequence[str], actions: Floats) -> dict[str, Floats]:
        """The columns of `actions` (B, A) that belong to this side, by their names without it."""
        own = [i for i, name in enumerate(names) if name.endswith(self.side)]
        return {names[i].removesuffix(self.side): actions[:, i] for i in own}

    def balls(self, faces: Reals) -> Balls:
        """The ball of each face (B, V, 3): the sphere of least squares through the eyeball's vertices."""
        points = faces[:, self.ball].astype(np.float64)
        middle = points.mean(axis=1)
        arms = points - middle[:, None]
        squares = (arms**2).sum(axis=2)
        system = np.concatenate([2 * arms, np.ones((*squares.shape, 1))], axis=2)
        flipped = system.transpose(0, 2, 1)
        solution = np.linalg.solve(flipped @ system, flipped @ squares[..., None])[..., 0]
        centre, radius = middle + solution[:, :3], np.sqrt(solution[:, 3] + (solution[:, :3] ** 2).sum(axis=1))
        ends = faces[:, self.canthi].astype(np.float64)
        axis = _unit(ends[:, 1] - ends[:, 0])
        ahead = faces[:, self.margin].astype(np.float64).mean(axis=1) - centre
        ahead = _unit(ahead - (ahead * axis).sum(axis=1, keepdims=True) * axis)
        return Balls(centre, radius, np.stack([axis, np.cross(ahead, axis), ahead], axis=1))

    def settle(self, faces: Singles) -> None:
        """Make the eyeballs of neutral faces (B, V, 3) round, and lay their lids onto them, in place: margins touch,
        and nothing lies inside."""
        balls = self.balls(faces)
        rays = faces[:, self.ball] - balls.centre[:, None]
        faces[:, self.ball] = balls.centre[:, None] + _unit(rays) * balls.radius[:, None, None]
        arms = faces[:, self.lids] - balls.centre[:, None]
        distance = np.linalg.norm(arms, axis=2)
        gap = distance - balls.radius[:, None]
        edge = gap[:, self.edge]
        beside = np.where(self.follows_upper > 0, edge @ self.upper.T, edge @ self.lower.T)
        gap = gap - self.held**2 * beside
        gap[:, self.edge] = 0.0
        gap += self.clinging * (_soft_above(gap, 0.0) - gap)
        gap[:, self.edge] = 0.0
        scale = (balls.radius[:, None] + gap) / distance
        faces[:, self.lids] = (balls.centre[:, None] + arms * scale[..., None]).astype(faces.dtype)

    def roll(self, neutral: Singles, faces: Singles, actions: Mapping[str, Floats]) -> None:
        """Move the lids of faces (B, V, 3), in place, from where they are in the `neutral` ones.

        `faces` holds all that the actions do besides; `actions` the strengths (B,) of the actions of this side.
        """
        balls = self.balls(neutral)
        rest = neutral[:, self.lids].astype(np.float64)
        pushed = rest + (faces[:, self.lids] - rest) * (1 - self.held[:, None])
        angle = balls.polar(rest[:, self.edge])[2]
        opening = np.maximum(angle @ (self.upper - self.lower).T - TOUCH, 0)
        raised, lowered = lid_shares(actions)
        along, away, about = balls.polar(pushed)
        about += opening * (self.follows_lower * raised[:, None] - self.follows_upper * lowered[:, None])
        arms = balls.arms(along, away, about)
        far = np.linalg.norm(arms, axis=2)
        gap = np.linalg.norm(rest - balls.centre[:, None], axis=2) - balls.radius[:, None]
        now = far - balls.radius[:, None]
        now -= FLATTENED * np.maximum(gap - FLAT_MM, 0) * self.follows_upper * np.maximum(lowered, 0)[:, None]
        limited = gap + _limited(now, gap) - _limited(gap, gap)  # nothing changes at rest
        now += self.clinging * (limited - now)
        now = np.maximum(now, np.minimum(gap, 0.0))  # skin that is hardly lid stays out of the ball as well
        scale = (balls.radius[:, None] + now) / far
        faces[:, self.lids] = (balls.centre[:, None] + arms * scale[..., None]).astype(faces.dtype)
        self._keep_out(balls, neutral, faces)

    def _keep_out(self, balls: Balls, neutral: Singles, faces: Singles) -> None:
        """Draw skin around the lids, which brows and cheeks may push into the ball, back onto it, in place."""
        arms = faces[:, self.around] - balls.centre[:, None]
        far = np.linalg.norm(arms, axis=2)
        face, place = np.nonzero(far < balls.radius[:, None])
        rest = np.linalg.norm(neutral[face, self.around[place]] - balls.centre[face], axis=1)
        least = np.minimum(rest, balls.radius[face])
        inside = far[face, place] < least
        face, place, least = face[inside], place[inside], least[inside]
        out = arms[face, place] * (least / far[face, place])[:, None]
        faces[face, self.around[place]] = (balls.centre[face] + out).astype(faces.dtype)


def lid_shares(actions: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Shares of the opening by which the lower lid is raised and the upper one lowered (negative: raised)."""
    b, s, c, d, w, t = (
        np.clip(actions[name], 0, 1)
        for name in ("eyeBlink", "eyeSquint", "cheekSquint", "eyeLookDown", "eyeWide", "eyeLookUp")
    )
    raised = 1 - (1 - 0.30 * s) * (1 - 0.20 * c) * (1 - 0.10 * b) - 0.06 * d * (1 - b) * (1 - s)
    lowered = (1 - raised) * (1 - (1 - b) * (1 - 0.20 * s) * (1 - 0.40 * d))
    return raised, lowered - (1 - b) * (1 - d) * (1 - 0.7 * s) * (0.36 * w + 0.12 * t)


def eyeball(basis: FaceBasis, template: Mesh, side: str) -> Integers:
    """The vertices of one eyeball: inside the lids, nothing moves them."""
    quiet = np.array([not name.startswith("mouthSmile") for name in basis.action_names])  # those are smoothed
    still = ~basis.actions[quiet].any(axis=(0, 2))
    return np.flatnonzero(still & (template.vertices[:, 0] > 0 if side == "Left" else template.vertices[:, 0] < 0))


def _around(mesh: Mesh, vertices: Integers) -> Integers:
    """The vertices beside those of a set."""
    inside = np.isin(mesh.edges, vertices)
    return np.setdiff1d(mesh.edges[inside[:, 0] ^ inside[:, 1]], vertices)


def _limited(now: Floats, gap: Floats) -> Floats:
    """Distances from the ball that are neither below zero nor more than `LIFT_MM` above those at rest."""
    return -_soft_above(-_soft_above(now, 0.0), -gap - LIFT_MM)


def _soft_above(values: Floats, limit: Floats | float) -> Floats:
    """Values that stay above a limit and approach it smoothly: the positive branch of a hyperbola."""
    over = values - limit
    return limit + (over + np.sqrt(over**2 + SOFT_MM**2)) / 2


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _step(values: Floats, low: float, high: float) -> Floats:
    """From 0 at `low` to 1 at `high`, smoothly."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
