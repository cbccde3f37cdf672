"""How deep parts of heads get into each other in each of the 52 shapes: the figures of docs/heads.md.

    python tools/head_figures.py [--heads 200] [--seed 77] [--model MODEL] [--shapes NAME ...]
    python tools/head_figures.py --picture docs/images/heads-whole.png
    python tools/head_figures.py --model head --picture docs/images/heads.png

Skin in eyeballs; teeth and tongue in the skin, and skin in teeth; the tongue in teeth; the rows of teeth in each other.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from meshgan.arrays import Floats, Integers
from meshgan.data.corpora.basis import head_layout
from meshgan.data.corpora.heads import Heads, heads, sphere
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface, closest_points
from meshgan.model.load import load_model
from meshgan.model.rig import ARKIT, rig, targets_of
from meshgan.view.figures import page, tiles, worn
from meshgan.view.raster import Camera

ALLOWED_MM = 0.3
PEOPLE = (19, 37, 24, 13, 8)  # of seed 0; of the first, a row of shapes
POSES: tuple[dict[str, float], ...] = (
    {"eyeLookInLeft": 1.0, "eyeLookOutRight": 1.0, "browInnerUp": 0.6},
    {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.7, "mouthSmileRight": 0.3},
    {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "jawOpen": 0.05, "mouthUpperUpLeft": 0.8, "mouthUpperUpRight": 0.8},
    {"jawOpen": 0.9, "eyeWideLeft": 0.7, "eyeWideRight": 0.7},
    {"tongueOut": 1.0, "eyeSquintLeft": 0.5, "eyeSquintRight": 0.5},
)
MOODS: tuple[dict[str, float], ...] = (
    {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "cheekSquintLeft": 0.5, "cheekSquintRight": 0.5},
    {"jawOpen": 0.45, "eyeWideLeft": 0.8, "eyeWideRight": 0.8, "browInnerUp": 0.8, "browOuterUpLeft": 0.8,
     "browOuterUpRight": 0.8},
    {"tongueOut": 1.0, "eyeSquintLeft": 0.5, "eyeSquintRight": 0.5},
    {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.8, "mouthSmileRight": 0.3, "cheekSquintLeft": 0.6},
    {"browDownLeft": 0.9, "browDownRight": 0.9, "noseSneerLeft": 0.4, "noseSneerRight": 0.4, "mouthPressLeft": 0.6,
     "mouthPressRight": 0.6},
    {"eyeLookOutLeft": 0.9, "eyeLookInRight": 0.9, "browOuterUpLeft": 0.8, "mouthLeft": 0.3},
    {"jawOpen": 0.15, "mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "mouthUpperUpLeft": 0.9, "mouthUpperUpRight": 0.9,
     "cheekSquintLeft": 0.7, "cheekSquintRight": 0.7},
    {"browInnerUp": 0.9, "mouthFrownLeft": 0.7, "mouthFrownRight": 0.7, "mouthShrugLower": 0.5},
    {"mouthPucker": 0.9, "eyeBlinkLeft": 0.95, "eyeBlinkRight": 0.95},
    {"cheekPuff": 0.9, "eyeLookUpLeft": 0.6, "eyeLookUpRight": 0.6},
    {"jawOpen": 0.25, "mouthFunnel": 0.7, "browInnerUp": 0.4},
    {"noseSneerLeft": 0.8, "noseSneerRight": 0.8, "mouthUpperUpLeft": 0.7, "mouthUpperUpRight": 0.4,
     "browDownLeft": 0.5, "browDownRight": 0.5},
)  # fmt: skip
ASIDE = (-22.0, 14.0, 28.0, -10.0)  # degrees
PIXELS, WIDTH_MM, TURNED = 320, 190.0, 20.0
RIM_MM = 5.0  # nearer to the lips, the inside of the mouth is not behind them
STRAY_MM, STILL_MM = 10.0, 0.02  # from teeth and tongue, what no shape brings near them; and what has not moved
MOUTH_MM = 75.0  # the skin so near the middle of the teeth counts as the mouth's


class Depths:
    """Measures heads of the template."""

    def __init__(self, whole: Heads) -> None:
        template, self.parts = whole.template, whole.parts
        self.lids = [np.intersect1d(eye.lids, whole.kept) for eye in (pair[0] for pair in whole.eyes)]
        self.lids = [np.searchsorted(whole.kept, lids) for lids in self.lids]
        self.balls = [pair[1] for pair in whole.eyes]
        middle = template.vertices[whole.inside].mean(axis=0)
        near = np.linalg.norm(template.vertices - middle, axis=1) < MOUTH_MM
        near[self.parts["skin"].stop :] = False
        self.whole = template.triangles[(template.triangles < self.parts["skin"].stop).all(axis=1)]
        self.skin = template.triangles[near[template.triangles].all(axis=1)]
        mouth = whole.beyond.mouth
        self.lining = mouth[closest_points(template.vertices[mouth], whole.face).distance > RIM_MM]
        outer = near & ~np.isin(np.arange(len(near)), mouth)
        self.outer = template.triangles[outer[template.triangles].all(axis=1)]
        self.unlined = self.whole[~np.isin(self.whole, mouth).any(axis=1)]
        self.own = {
            name: template.triangles[self._of(name, template)] for name in ("teethUpper", "teethLower", "tongue")
        }

    def _of(self, name: str, template: Mesh) -> Integers:
        part = self.parts[name]
        return np.flatnonzero(
            (template.triangles >= part.start).all(axis=1) & (template.triangles < part.stop).all(axis=1)
        )

    def of_lids(self, head: Floats) -> float:
        """How deep in mm the lids of a head (H, 3) are in its eyeballs."""
        depths = [0.0]
        for lids, ball in zip(self.lids, self.balls, strict=True):
            middle, radius = sphere(head[ball])
            depths.append(radius - float(np.linalg.norm(head[lids] - middle, axis=1).min()))
        return max(depths)

    def measure(self, head: Floats) -> dict[str, float]:
        """The depths in mm of a head (H, 3); what is less than half of what is allowed counts as nothing."""
        skin, inner = Shell(head, self.skin, self.whole), np.unique(self.skin)
        own = {name: Shell(head, triangles) for name, triangles in self.own.items()}
        found = {"lids in eyes": self.of_lids(head)}
        found["mouth through skin"] = Shell(head, self.outer, self.unlined).outside(head[self.lining])
        for name, triangles in self.own.items():
            found[f"{name} in skin"] = skin.depth(head[np.unique(triangles)])
            found[f"skin in {name}"] = own[name].depth(head[inner])
        found["tongue in teethUpper"] = own["teethUpper"].depth(head[self.parts["tongue"]])
        found["tongue in teethLower"] = own["teethLower"].depth(head[self.parts["tongue"]])
        found["teethLower in teethUpper"] = own["teethUpper"].depth(head[self.parts["teethLower"]])
        return found

    def near_mouth(self, head: Floats) -> Integers:
        """The vertices of a head (H, 3) by which anything but its lids can get into something: teeth, tongue, and the
        skin within `STRAY_MM` of them."""
        mouth = np.concatenate([np.unique(triangles) for triangles in self.own.values()])
        skin = np.unique(np.concatenate([self.skin.ravel(), self.outer.ravel(), self.lining]))
        away = cKDTree(head[np.concatenate([mouth, self.lining])]).query(head[skin])[0]
        return np.concatenate([mouth, skin[away < STRAY_MM]])


class Shell:
    """What `triangles` of a head (H, 3) enclose, together with those `around`."""

    def __init__(self, head: Floats, triangles: Integers, around: Integers | None = None) -> None:
        rows, corners = np.unique(triangles, return_inverse=True)
        self.surface = Surface(Mesh(head[rows], corners.reshape(-1, 3)))
        self.low, self.high = head[rows].min(axis=0), head[rows].max(axis=0)
        self.corners = head[triangles if around is None else around]

    def depth(self, points: Floats) -> float:
        """How deep in mm the deepest of points (N, 3) lies in it."""
        points = points[((points > self.low) & (points < self.high)).all(axis=1)]
        return self._farthest(points, -1.0, True) if len(points) else 0.0

    def outside(self, points: Floats) -> float:
        """How far in mm the farthest of points (N, 3) lies before it that belongs behind it."""
        return self._farthest(points, 1.0, False)

    def _farthest(self, points: Floats, side: float, inside: bool) -> float:
        found = self.surface.closest(points)
        far = found.distance
        maybe = side * ((points - found.points) * self.surface.normals(found)).sum(axis=1) > 0
        if inside:
            maybe &= ~self.surface.on_border(found)
        maybe = np.flatnonzero(maybe & (far > ALLOWED_MM / 2))
        for row in maybe[np.argsort(-far[maybe])]:
            if (winding(points[row], self.corners) > 0.5) == inside:
                return float(far[row])
        return 0.0


def winding(point: Floats, corners: Floats) -> float:
    """How often triangles (F, 3, 3) go around a point (3,), by their solid angles (Van Oosterom and Strackee 1983)."""
    a, b, c = np.moveaxis(corners - point, 1, 0)
    x, y, z = (np.sqrt(np.einsum("fi,fi->f", side, side)) for side in (a, b, c))
    volume = np.einsum("fi,fi->f", a, np.cross(b, c))
    ab, bc, ca = (np.einsum("fi,fi->f", *pair) for pair in ((a, b), (b, c), (c, a)))
    return float(np.arctan2(volume, x * y * z + ab * z + bc * x + ca * y).sum() / (2 * np.pi))


def drawn(name: str, count: int, seed: int) -> Iterator[Floats]:
    """Heads (H, 3) in mm: the first that a model draws, or those of the corpus."""
    if name:
        model = load_model(name)
        for row in model.sample(count, seed):
            yield row.astype(np.float64)
    else:
        for number in range(count):
            yield heads().people(seed, np.array([number]))[0][0].astype(np.float64)


def gallery(path: Path, name: str, seed: int) -> None:
    """Draw the first heads that a model draws, each with an expression of its rig."""
    triangles, colour, shown = heads().template.triangles, worn(head_layout()), []
    for number, head in enumerate(drawn(name, len(MOODS), seed)):
        posed = np.asarray(rig(head, "arkit").posed(MOODS[number]))
        camera = Camera.framing(head[None], yaw=ASIDE[number % len(ASIDE)])
        shown.append(tiles(posed[None], triangles, PIXELS, camera=camera, colour=colour)[0])
    half = len(MOODS) // 2
    page(path, [np.stack(shown[:half]), np.stack(shown[half:])])


def picture(path: Path) -> None:
    """Draw some people of the corpus, and what eyes, jaw and tongue of one of them do."""
    triangles, colour = heads().template.triangles, worn(head_layout())
    people = heads().people(0, np.array(PEOPLE))[0].astype(np.float64)
    rows = [tiles(people - people.mean(axis=1, keepdims=True), triangles, PIXELS, colour=colour)]
    moved = rig(people[0], "arkit")
    poses = np.stack([moved.posed(weights) for weights in POSES])
    middle = people[0, : heads().parts["skin"].start + len(heads().kept)].mean(axis=0)
    camera = Camera(WIDTH_MM, (float(middle[0]), float(middle[1]), float(middle[2])), TURNED)
    rows.append(tiles(poses, triangles, PIXELS, camera=camera, colour=colour))
    page(path, rows)


def main() -> None:
    """Print the deepest of each shape."""
    parser = argparse.ArgumentParser(description="Measure how deep parts of heads get into each other.")
    parser.add_argument("--heads", type=int, default=200)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--model", default="", metavar="MODEL", help="heads that it draws; else those of the corpus")
    parser.add_argument("--shapes", nargs="*", default=ARKIT, metavar="NAME", help="those alone, and the face at rest")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if options.picture:
        if options.model:
            gallery(options.picture, options.model, options.seed)
        else:
            picture(options.picture)
        return
    measured, worst = Depths(heads()), {name: {} for name in ("at rest", *options.shapes)}
    for number, head in enumerate(drawn(options.model, options.heads, options.seed)):
        targets, near, rest = targets_of(head, "arkit"), measured.near_mouth(head), measured.measure(head)
        for name, deepest in worst.items():
            found = rest
            if name != "at rest":
                moved, still = head + targets[name], np.abs(targets[name][near]).max() < STILL_MM
                found = rest | {"lids in eyes": measured.of_lids(moved)} if still else measured.measure(moved)
            for pair, value in found.items():
                if value > ALLOWED_MM:
                    print(f"head {number}, {name}: {pair} {value:.2f} mm", file=sys.stderr, flush=True)
                deepest[pair] = max(deepest.get(pair, 0.0), value)
        if number % 10 == 9:
            print(f"{number + 1} heads", file=sys.stderr, flush=True)
    for name, deepest in worst.items():
        told = ", ".join(f"{pair} {value:.2f}" for pair, value in deepest.items() if value > ALLOWED_MM)
        print(f"{name:22s} {max(deepest.values()):.2f} mm{': ' + told if told else ''}")


if __name__ == "__main__":
    main()
