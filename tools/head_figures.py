"""How deep parts of heads get into each other in each of the 52 shapes: the figures of docs/heads.md.

    python tools/head_figures.py [--heads 200] [--seed 77] [--shapes NAME ...]
    python tools/head_figures.py --picture docs/images/heads-whole.png

Skin in eyeballs; teeth and tongue in the skin, and skin in teeth; the tongue in teeth; the rows of teeth in each other.
"""

import argparse
from pathlib import Path

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.data.corpora.basis import head_layout
from meshgan.data.corpora.heads import Heads, heads, sphere
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface, closest_points
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
PIXELS, WIDTH_MM, TURNED = 320, 190.0, 20.0
RIM_MM = 5.0  # nearer to the lips, the inside of the mouth is not behind them
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
        """The depths in mm of a head (H, 3)."""
        found = {"lids in eyes": self.of_lids(head)}
        found["mouth through skin"] = outside(head[self.lining], head, self.outer, self.unlined)
        skin = np.unique(self.skin)
        for name, triangles in self.own.items():
            found[f"{name} in skin"] = depth(head[np.unique(triangles)], head, self.skin, self.whole)
            found[f"skin in {name}"] = depth(head[skin], head, triangles)
        found["tongue in teethUpper"] = depth(head[self.parts["tongue"]], head, self.own["teethUpper"])
        found["tongue in teethLower"] = depth(head[self.parts["tongue"]], head, self.own["teethLower"])
        found["teethLower in teethUpper"] = depth(head[self.parts["teethLower"]], head, self.own["teethUpper"])
        return found


def depth(points: Floats, head: Floats, triangles: Integers, around: Integers | None = None) -> float:
    """How deep in mm the deepest of points (N, 3) lies in what `triangles` enclose, together with those `around`."""
    rows, corners = np.unique(triangles, return_inverse=True)
    surface = Surface(Mesh(head[rows], corners.reshape(-1, 3)))
    points = points[((points > head[rows].min(axis=0)) & (points < head[rows].max(axis=0))).all(axis=1)]
    if not len(points):
        return 0.0
    found = surface.closest(points)
    far = np.linalg.norm(points - found.points, axis=1)
    maybe = (((points - found.points) * surface.normals(found)).sum(axis=1) < 0) & ~surface.on_border(found)
    maybe = np.flatnonzero(maybe & (far > ALLOWED_MM / 3))
    inside = winding(points[maybe], head[triangles if around is None else around]) > 0.5
    return float(far[maybe[inside]].max(initial=0.0))


def outside(points: Floats, head: Floats, triangles: Integers, around: Integers) -> float:
    """How far in mm the farthest of points (N, 3) lies before `triangles` that belongs behind them, in what `around`
    encloses."""
    rows, corners = np.unique(triangles, return_inverse=True)
    surface = Surface(Mesh(head[rows], corners.reshape(-1, 3)))
    found = surface.closest(points)
    arms = points - found.points
    far = np.linalg.norm(arms, axis=1)
    maybe = np.flatnonzero(((arms * surface.normals(found)).sum(axis=1) > 0) & (far > ALLOWED_MM / 3))
    before = maybe[winding(points[maybe], head[around]) < 0.5]
    return float(far[before].max(initial=0.0))


def winding(points: Floats, corners: Floats) -> Floats:
    """How often triangles (F, 3, 3) go around points (N,), by their solid angles (Van Oosterom and Strackee 1983)."""
    found = np.empty(len(points))
    for number, point in enumerate(points):
        a, b, c = np.moveaxis(corners - point, 1, 0)
        x, y, z = (np.linalg.norm(side, axis=1) for side in (a, b, c))
        volume = np.einsum("fi,fi->f", a, np.cross(b, c))
        rest = x * y * z + (a * b).sum(axis=1) * z + (b * c).sum(axis=1) * x + (c * a).sum(axis=1) * y
        found[number] = np.arctan2(volume, rest).sum() / (2 * np.pi)
    return found


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
    parser.add_argument("--shapes", nargs="*", default=ARKIT, metavar="NAME", help="those alone, and the face at rest")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if options.picture:
        picture(options.picture)
        return
    measured, worst = Depths(heads()), {name: {} for name in ("at rest", *options.shapes)}
    for number in range(options.heads):
        head = heads().people(options.seed, np.array([number]))[0][0].astype(np.float64)
        targets = targets_of(head, "arkit")
        for name, found in worst.items():
            moved = head if name == "at rest" else head + targets[name]
            for pair, value in measured.measure(moved).items():
                found[pair] = max(found.get(pair, 0.0), value)
    for name, found in worst.items():
        told = ", ".join(f"{pair} {value:.2f}" for pair, value in found.items() if value > ALLOWED_MM)
        print(f"{name:22s} {max(found.values()):.2f} mm{': ' + told if told else ''}")


if __name__ == "__main__":
    main()
