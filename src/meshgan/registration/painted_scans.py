"""Fake scans in colours: people's faces with a painted texture, whose every place is known.

The picture is synthetic: a skin tone with blotches and grain, brows, lips, lashes along the lid rims, an iris and its
pupil, where the template's landmarks and parts are; stubble on some; and, as textures of real scans have it, the light
of a lamp somewhere before the face. It has no real skin, make-up or strands of hair, and no shadow that falls. So it
says whether colours are used as they should be, and not how well a detector that was trained on photographs reads real
ones.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Bytes, Floats, Integers
from meshgan.data.corpora.basis import face_layout
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points
from meshgan.registration.bake import covered
from meshgan.registration.colours import Painted
from meshgan.registration.fake_scans import FakeScan, subdivided
from meshgan.registration.scan import seen_from_before
from meshgan.registration.template import FaceTemplate, inside_polygon

SIZE = 1024  # pixels of the picture
TONES = np.array([[236, 205, 186], [214, 172, 146], [172, 124, 94], [104, 70, 52]], dtype=np.float64)
HAIR = np.array([[30, 24, 22], [84, 58, 40], [150, 120, 84], [120, 112, 104]], dtype=np.float64)
IRISES = np.array([[74, 48, 30], [96, 104, 70], [92, 122, 150]], dtype=np.float64)
SCLERA, PUPIL, DARK = np.array([222.0, 214.0, 208.0]), np.full(3, 14.0), np.array([40.0, 22.0, 18.0])
IRIS_MM, PUPIL_MM, LASH_MM = 5.9, 2.2, 0.7
BROW_MM, ELSEWHERE_MM, BROW_TURN = (2.0, 4.5), 1.0, 0.6  # half of its width; deviation of where a brow is
REDDER = np.array([0.88, 0.6, 0.6])  # of the skin's colour: lips
REDNESS = np.array([0.3, -0.4, -0.4])  # of blotches
BLOTCHES, BLOTCH_MM, BLOTCHY, GRAIN = 40, (6.0, 25.0), 0.05, 0.04
STUBBLED, STUBBLE = 0.35, 0.45  # share of people; of the hair's colour, at most
AMBIENT = (0.35, 1.0)  # of the light, without a direction: with 1 there is no shading in the picture
LAMP = np.array([0.8, 0.5, 0.0])  # deviation of where it is, about straight ahead
STEP_MM = 0.25


@dataclass(frozen=True, eq=False)
class Canvas:
    """The layout of a template as a picture of `SIZE` pixels on a side."""

    template: FaceTemplate

    @cached_property
    def _cover(self) -> tuple[Integers, Integers, Floats]:
        owner, shares = covered(face_layout(), SIZE)
        pixels = np.flatnonzero(owner.ravel() >= 0)
        return pixels, owner.ravel()[pixels], shares.reshape(-1, 3)[pixels].astype(np.float64)

    def of(self, values: Floats) -> Floats:
        """Values of vertices (V, …) at the pixels (P, …) that the layout covers."""
        _, triangle, shares = self._cover
        return np.asarray(np.einsum("pk,pk...->p...", shares, values[self.template.mesh.triangles[triangle]]))

    @cached_property
    def places(self) -> Floats:
        """Where on the template the pixels are (P, 3)."""
        return self.of(self.template.mesh.vertices)

    @cached_property
    def marks(self) -> Floats:
        """The template's landmarks (79, 3)."""
        return np.asarray(self.template.landmark_rows @ self.template.mesh.vertices)

    @cached_property
    def lips(self) -> Booleans:
        """The pixels (P,) of lips: between the outer line and the inner one, and not behind them."""
        outer, inner, places = self.marks[48:60], self.marks[60:68], self.places
        before = places[:, 2] > outer[:, 2].min() - STEP_MM
        return before & inside_polygon(places[:, :2], outer[:, :2]) & ~inside_polygon(places[:, :2], inner[:, :2])

    @cached_property
    def eyeballs(self) -> Booleans:
        """The pixels (P,) of eyeballs."""
        return self.of(self.template.eyeballs.astype(np.float64)) > 0.5

    @cached_property
    def lashes(self) -> Floats:
        """How far the pixels (P,) are from the nearer lid rim, in mm; inf where that is far."""
        mesh, ball = self.template.mesh, self.template.eyeballs
        i, j = mesh.edges.T
        middles = mesh.vertices[mesh.edges[ball[i] != ball[j]]].mean(axis=1)
        near = cKDTree(middles).query_pairs(4.0, output_type="ndarray")
        steps = np.linspace(0, 1, int(4.0 / STEP_MM))[:, None, None]
        rim = (middles[near[:, 0]] * steps + middles[near[:, 1]] * (1 - steps)).reshape(-1, 3)
        return np.asarray(cKDTree(rim).query(self.places, distance_upper_bound=10 * LASH_MM)[0])

    @cached_property
    def hollows(self) -> Floats:
        """How far the pixels (P,) are out of sight, in nostrils and the mouth: from 0 to 1."""
        shown = seen_from_before(self.template.mesh, np.arange(len(self.template.mesh.vertices)))
        return self.of((~(shown | self.template.eyeballs)).astype(np.float64))

    def picture(self, colours: Floats) -> Bytes:
        """The colours (P, 3) as a picture (SIZE, SIZE, 3)."""
        picture = np.full((SIZE * SIZE, 3), 128.0)
        picture[self._cover[0]] = colours
        return picture.reshape(SIZE, SIZE, 3).clip(0, 255).astype(np.uint8)

    def grain(self, rng: np.random.Generator, width: float) -> Floats:
        """Noise (P,) of deviation 1 that is even over so many pixels."""
        noise = gaussian_filter(rng.normal(size=(SIZE, SIZE)), width).ravel()[self._cover[0]]
        return np.asarray(noise / noise.std())


def painted_picture(canvas: Canvas, face: Floats, rng: np.random.Generator) -> Bytes:
    """A picture (SIZE, SIZE, 3) of the face (V, 3) of somebody, in the light of a lamp."""
    places, marks = canvas.places, canvas.marks
    tone = rng.uniform(0, len(TONES) - 1)
    low = int(min(tone, len(TONES) - 2))
    skin = TONES[low] + (tone - low) * (TONES[low + 1] - TONES[low])
    hair = HAIR[0] if tone > 2 else HAIR[rng.integers(len(HAIR))]
    colours = np.tile(skin, (len(places), 1))
    for centre in places[rng.choice(len(places), BLOTCHES)]:
        apart = ((places - centre) ** 2).sum(axis=1) / rng.uniform(*BLOTCH_MM) ** 2
        colours *= 1 + np.exp(-0.5 * apart)[:, None] * (BLOTCHY * rng.normal() + BLOTCHY * REDNESS * rng.normal())
    if rng.uniform() < STUBBLED:
        low_part = np.clip((marks[33, 1] + 2 - places[:, 1]) / 12, 0, 1) * np.clip(canvas.grain(rng, 0.8) + 0.6, 0, 1)
        colours += (STUBBLE * rng.uniform() * low_part)[:, None] * (hair - colours)
    red = skin * REDDER * rng.uniform(0.8, 1.0)
    colours[canvas.lips] = red * (1 + 0.05 * canvas.grain(rng, 2.0)[canvas.lips, None])
    for brow in (marks[17:22], marks[22:27]):
        colours += _brow(places, brow, canvas, rng)[:, None] * (hair - colours)
    colours *= 1 + GRAIN * canvas.grain(rng, 1.0)[:, None]
    iris = IRISES[0] if tone > 2 else IRISES[rng.integers(len(IRISES))]
    for lids in (marks[36:42], marks[42:48]):
        away = np.linalg.norm(places[:, :2] - lids[:, :2].mean(axis=0), axis=1)
        near = canvas.eyeballs & (away < 20)
        shown = np.where((away < IRIS_MM)[:, None], iris, SCLERA)
        colours[near] = np.where((away < PUPIL_MM)[:, None], PUPIL, shown)[near]
    colours += (0.85 * np.exp(-0.5 * (canvas.lashes / LASH_MM) ** 2))[:, None] * (0.5 * hair - colours)
    colours += (0.9 * canvas.hollows)[:, None] * (DARK - colours)
    return canvas.picture(colours * _light(canvas, face, rng)[:, None])


def _brow(places: Floats, line: Floats, canvas: Canvas, rng: np.random.Generator) -> Floats:
    """How much hair of a brow, along a line (5, 3), the pixels (P,) have."""
    x = np.linspace(0, 4, 41)
    points = np.stack([np.interp(x, np.arange(5), line[:, axis]) for axis in range(3)], axis=1)
    points = points + rng.normal(scale=ELSEWHERE_MM, size=3) * [1, 1, 0]
    away, nearest = cKDTree(points).query(places)
    outer = np.abs(points[nearest, 0]) / np.abs(points[:, 0]).max()
    width = rng.uniform(*BROW_MM) * (1.2 - 0.7 * outer)
    return np.asarray(np.clip(1.3 - away / width, 0, 1) * np.clip(0.75 + 0.3 * canvas.grain(rng, 1.0), 0, 1))


def _light(canvas: Canvas, face: Floats, rng: np.random.Generator) -> Floats:
    """How much light falls on the pixels (P,)."""
    lamp = rng.normal(size=3) * LAMP + [0.0, 0.0, 1.0]
    normals = canvas.of(canvas.template.mesh.with_vertices(face).vertex_normals)
    ambient = rng.uniform(*AMBIENT)
    return np.asarray(ambient + (1 - ambient) * np.clip(normals @ lamp / np.linalg.norm(lamp), 0, 1))


def worn(fake: FakeScan, face: Mesh, picture: Bytes, finer: int = 0) -> Painted:
    """A fake scan of a face with the colours of its picture at its vertices; `finer` times cut into four for each.

    (Texture coordinates of its own it does not have: its triangles lie across the seams of the layout.)
    """
    mesh, layout = fake.mesh, face_layout()
    for _ in range(finer):
        mesh = subdivided(mesh)
    found = closest_points(fake.pose.inverse(mesh.vertices), face)
    laid = Painted(face, layout.coordinates[layout.corners], picture)
    return Painted(mesh, colours=laid.at(found.triangle, found.barycentric).astype(np.uint8))
