"""What makes a face somebody's own beyond the face basis: proportions, features, detail and folds.

A smooth field of displacements is a Gaussian process in space, in the manner of Lüthi et al. (2018, *Gaussian process
morphable models*): white noise on centres over the face, blurred by a Gaussian (a process convolution, Higdon 2002).
Every scale from the skull's proportions to the shape of a nostril is one `Layer`. The blur is over distances in space,
so that lips and lids move together. Centres come in mirrored pairs, whose noise agrees as far as faces are symmetric.

Faces are not Gaussian: how strong a layer is differs from person to person and from region to region, and what is
added last are products: the relief of a face, what blurring it would take away, is made stronger or weaker by smooth
random fields. So features become sharper or softer where they are, and a smooth cheek stays smooth. Then come the
folds (`folds.py`). Nothing here is decomposed, and nothing is stored: all follows from the template.
"""

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from meshgan.arrays import Floats, Integers, Singles
from meshgan.compiled import compiled
from meshgan.data.corpora.basis import FaceBasis, Neutral, average_adult, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.folds import EYES, Folds, draw_folds, eye_gap, fold_lines
from meshgan.data.corpora.population import People
from meshgan.geometry.mesh import Mesh

Blur: TypeAlias = Singles | sp.csr_array  # (N, M)


@dataclass(frozen=True)
class Layer:
    """One scale: the blur's `width`, and the standard deviation `mm` of the displacement's x, y and z where the map of
    features is 1; `base` is the map's least value. What a blur of twice the width keeps is taken away `band` times, so
    that most of a band's energy lies at wavelengths of 4 to 8 widths. `rough` is the deviation of the logarithm of a
    person's own strength in it, `asymmetry` the share of the variance that is not symmetric."""

    width: float
    mm: tuple[float, float, float]
    base: float = 1.0
    rough: float = 0.2
    asymmetry: float = 0.08
    band: int = 1


LAYERS = (
    Layer(58.0, (1.51, 1.40, 1.94), 1.0, 0.0, 0.01, 0),
    Layer(8.7, (0.316, 0.316, 0.434), 1.0, 0.58, band=2),
    Layer(4.5, (0.204, 0.204, 0.262), 0.4, 0.58),
    Layer(2.8, (0.13, 0.13, 0.14), 0.15, 0.5),
)
SIZE, PROPORTIONS = 0.078, (0.048, 0.055, 0.06)  # deviations of the logarithms of a face's scale, and of x, y and z
CHILDREN = 0.6  # how much less of all but the widest layer, and of the relief, children have
COARSE = 12.0  # mm: wider blurs move eyeballs and lids with the head around them; others leave them in place
MOST = 2.6  # deviations at which noise ends
SPACING = 1.2  # widths between centres
CUT, RELIEF_CUT = 3.0, 2.2  # widths beyond which a blur ends
DENSE = 400  # centres up to which a blur is a dense matrix
REGIONS_WIDTH = 21.0  # mm: the blur of what makes regions differ in strength
REGIONAL = 0.45  # deviation of the logarithm of a region's strength
RELIEFS = ((2.5, 0.26), (5.5, 0.15))  # blur in mm, and deviation of the gain of the relief that it takes away
RELIEF_WIDTH, RELIEF_ASYMMETRY = 8.0, 0.1  # of the gains: the blur in mm, the share that is not symmetric
FEATURES = (  # where faces have features: centre, reach in mm
    ((-29, 27, 13), 17.0), ((29, 27, 13), 17.0), ((0, 20, 24), 13.0), ((0, -10, 36), 15.0), ((0, -22, 27), 13.0),
    ((0, -42, 28), 22.0), ((-15, -42, 23), 15.0), ((15, -42, 23), 15.0), ((0, -66, 22), 17.0),
    ((-26, 41, 20), 15.0), ((26, 41, 20), 15.0),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Traits:
    """What is personal about B faces: the scales `size` (B,) and `proportions` (B, 3) of x, y and z; for each layer
    the noise at its centres (B, M, 3), in mm; for each relief the gains (B, G) at their centres; and the folds."""

    size: Floats
    proportions: Floats
    noise: tuple[Singles, ...]
    gains: tuple[Singles, ...]
    folds: Folds

    def of(self, rows: Integers) -> "Traits":
        """The traits of these people."""
        noise, gains = (tuple(part[rows] for part in parts) for parts in (self.noise, self.gains))
        return Traits(self.size[rows], self.proportions[rows], noise, gains, self.folds.of(rows))


class Detail:
    """Draws and applies what `Traits` hold, on the face template of the package."""

    def __init__(self, template: Mesh, joint: Floats) -> None:
        self.template = template
        self.lines = fold_lines()
        self.points = np.concatenate([template.vertices, joint[None], EYES])
        self.features = _feature_map(self.points)
        gap = eye_gap(template)
        self.socket = np.flatnonzero(gap < 5.0)
        arms = template.vertices[self.socket, None] - EYES
        self.eye = np.linalg.norm(arms, axis=2).argmin(axis=1)
        arms = arms[np.arange(len(arms)), self.eye]
        balls = [self.socket[(self.eye == eye) & (gap[self.socket] < 0.05)] for eye in range(len(EYES))]
        self.balls = [
            (ball, (EYES[eye] - template.vertices[ball].mean(axis=0)).astype(np.float32))
            for eye, ball in enumerate(balls)
        ]
        self.radial = (arms / np.linalg.norm(arms, axis=1, keepdims=True)).astype(np.float32)
        self.held = (1 - _rise(gap[self.socket], 0.3, 5.0)).astype(np.float32)
        self.centres = [_centres(template, SPACING * layer.width) for layer in LAYERS]
        self.blurs = [self._layer(layer, centres) for layer, centres in zip(LAYERS, self.centres, strict=True)]
        self.regions = _centres(template, SPACING * REGIONS_WIDTH)
        self.to_centres = [
            _blur(self.points[centres.index], self.points[self.regions.index], REGIONS_WIDTH)
            for centres in self.centres
        ]
        self.relief_centres = _centres(template, SPACING * RELIEF_WIDTH)
        self.gain_blur = _blur(template.vertices, self.points[self.relief_centres.index], RELIEF_WIDTH)
        self.reliefs = [_relief(template, width) for width, _ in RELIEFS]
        rim = cKDTree(template.vertices[_rim(template)]).query(template.vertices)[0]
        self.relief_map = (_rise(rim, 3.0, 12.0) * _rise(gap, 0.3, 5.0)).astype(np.float32)
        self.mirror = opposite(template.vertices)
        self.normals = template.vertex_normals.astype(np.float32)

    def _layer(self, layer: Layer, centres: "Centres") -> "Blur":
        strength = layer.base + (1 - layer.base) * self.features
        return _blur(self.points, self.points[centres.index], layer.width, strength, layer.band)

    def draw(self, people: People, draws: Draws) -> Traits:
        """The traits of each of `people` (B)."""
        folds = draw_folds(self.lines, people, draws)
        own = np.clip(draws.normal(4), -2.5, 2.5)
        size, proportions = np.exp(SIZE * own[:, 0]), np.exp(np.array(PROPORTIONS) * own[:, 1:])
        young = np.clip((16 - people.phenotype.age) / 9, 0, 1)  # children's faces are rounder and smoother
        calm = 1 - CHILDREN * young[:, None]
        noise = []
        for layer, centres, regional in zip(LAYERS, self.centres, self.to_centres, strict=True):
            white = draws.normal(3 * len(centres.index)).reshape(len(young), -1, 3)
            strength = np.exp(layer.rough * np.clip(draws.normal(1), -2, 2) - layer.rough**2)  # of mean square 1
            if layer.rough:
                regions = draws.normal(len(self.regions.index)) @ np.asarray(regional).T
                strength = strength * np.exp(REGIONAL * np.clip(regions, -2, 2) - REGIONAL**2)
                strength = strength * calm
            white = np.clip(centres.mirrored(white, layer.asymmetry), -MOST, MOST)
            noise.append((white * strength[..., None] * np.array(layer.mm)).astype(np.float32))
        gains = []
        for _, gain in RELIEFS:
            white = draws.normal(len(self.relief_centres.index))[..., None]
            local = self.relief_centres.mirrored(white, RELIEF_ASYMMETRY, vectors=False)[..., 0]
            gains.append((gain * calm * (0.5 * draws.normal(1) + local)).astype(np.float32))
        return Traits(size, proportions, tuple(noise), tuple(gains), folds)

    def applied(self, faces: Neutral, traits: Traits) -> Neutral:
        """The faces (B) with their traits."""
        count, last = faces.vertices.shape[:2]
        coarse, fine = (np.zeros((len(self.points), count * 3), dtype=np.float32) for _ in range(2))
        for layer, blur, noise in zip(LAYERS, self.blurs, traits.noise, strict=True):
            field = coarse if layer.width > COARSE else fine
            white = np.ascontiguousarray(noise.transpose(1, 0, 2)).reshape(noise.shape[1], -1)
            field += blur @ white
        coarse, fine = coarse.reshape(-1, count, 3), fine.reshape(-1, count, 3)
        fine[-len(EYES) :] = 0
        coarse += fine
        self._scale(coarse, faces, traits)
        self._hold(coarse)
        moved, joints = coarse[:last], faces.joints + coarse[last]
        moved += faces.vertices.transpose(1, 0, 2)
        flat = moved.reshape(last, -1)
        reliefs = np.stack([relief @ flat for relief in self.reliefs]).reshape(-1, *moved.shape)
        gains = np.stack([self.gain_blur @ gains.T for gains in traits.gains])
        along = traits.folds.displacement() + traits.folds.moles()
        vertices, size = np.empty(faces.vertices.shape, dtype=np.float32), traits.size.astype(np.float32)
        _finish(moved, reliefs, gains, self.relief_map, along, self.normals, size, vertices)
        return Neutral(vertices, joints * size[:, None])

    def asymmetry(self, faces: Singles) -> Floats:
        """How far (B,) in mm, root mean square, faces (B, V, 3) in the template's place lie from being symmetric."""
        difference = faces - np.take(faces, self.mirror, axis=1) * np.array([-1, 1, 1], dtype=np.float32)
        return np.sqrt(np.einsum("bvc,bvc->b", difference, difference) / faces.shape[1]) / 2

    def _scale(self, field: Singles, faces: Neutral, traits: Traits) -> None:
        """Add to a field (V + 3, B, 3) how proportions move points, the middle of the face staying where it is."""
        eyes = np.stack([faces.vertices[:, ball].mean(axis=1) + into for ball, into in self.balls])
        middle, last = faces.vertices.mean(axis=1), faces.vertices.shape[1]
        growth = (traits.proportions - 1).astype(np.float32)
        field[:last] += faces.vertices.transpose(1, 0, 2) * growth
        field[:last] -= middle * growth
        field[last] += (faces.joints - middle) * growth
        field[-len(EYES) :] += (eyes - middle) * growth

    def _hold(self, field: Singles) -> None:
        """Let a field (V + 3, B, 3) move eyeballs as their middles are moved, and lids not into them or off them."""
        there = field[self.socket]
        turned = there - field[-len(EYES) :][self.eye]
        out = np.einsum("vbc,vc->vb", turned, self.radial) * self.held[:, None]
        field[self.socket] = there - out[..., None] * self.radial[:, None]


@dataclass(frozen=True, eq=False)
class Centres:
    """Vertices `index` (M,) spread over the template, and for each the place `mirror` (M,) of its mirror image."""

    index: Integers
    mirror: Integers

    def mirrored(self, white: Floats, asymmetry: float, vectors: bool = True) -> Floats:
        """White noise (B, M, C) made symmetric but for a share of its variance, which stays 1."""
        alike = 1 - 2 * asymmetry
        own, other = ((np.sqrt(1 + alike) + sign * np.sqrt(1 - alike)) / 2 for sign in (1, -1))
        image = np.take(white, self.mirror, axis=1) * np.array([-1, 1, 1] if vectors else [1])
        middle = (self.mirror == np.arange(len(self.mirror)))[:, None]
        mixed = own * white + other * image
        return np.where(middle, white * (np.array([np.sqrt(asymmetry), 1, 1]) if vectors else 1), mixed)


def add_trait_labels(labels: list[dict[str, object]], folds: Folds, faces: Singles) -> None:
    """Add to label rows of faces (B, V, 3) how deep their folds and how asymmetric they are, in mm, and their moles."""
    columns = folds.labels() | {"asymmetry_mm": detail().asymmetry(faces)}
    moles = columns.pop("moles")
    for row, count, values in zip(labels, moles, zip(*columns.values(), strict=True), strict=True):
        row |= {name: f"{value:.2f}" for name, value in zip(columns, values, strict=True)} | {"moles": int(count)}


@cache
def detail() -> Detail:
    """The detail of the face template of the package."""
    basis, template = FaceBasis.read(), face_template()
    adult = basis.neutral(average_adult(), np.zeros((1, len(basis.feature_names))))
    return Detail(template, adult.joints[0] + (template.vertices - adult.vertices[0]).mean(axis=0))


def opposite(points: Floats) -> Integers:
    """For each of points (V, 3) the one at the mirrored place."""
    return cKDTree(points).query(points * [-1, 1, 1])[1].astype(np.int64)


def _centres(template: Mesh, apart: float) -> Centres:
    """Vertices about `apart` mm from each other, in mirrored pairs: the furthest from all so far, again and again."""
    points = template.vertices
    mirror = opposite(points)
    away = np.full(len(points), np.inf)
    chosen: list[int] = []
    place = int(np.lexsort((points[:, 0], np.abs(points - [0, -10.8, 39.5]).sum(axis=1).round(3)))[0])
    while True:
        for vertex in dict.fromkeys((place, int(mirror[place]))):
            chosen.append(vertex)
            away = np.minimum(away, np.linalg.norm(points - points[vertex], axis=1))
        rounded = away.round(3)  # mirrored vertices are equally far, whatever the last bits say
        place = int(np.flatnonzero(rounded == rounded.max())[0])
        if rounded[place] < apart:
            break
    index = np.array(chosen, dtype=np.int64)
    places = {vertex: i for i, vertex in enumerate(chosen)}
    return Centres(index, np.array([places[int(mirror[vertex])] for vertex in chosen]))


def _blur(points: Floats, centres: Floats, width: float, strength: Floats | None = None, band: int = 0) -> Blur:
    """(N, M): blurs noise at `centres` (M, 3) so that it has variance 1, or `strength` (N,) squared, at each point;
    `band` times without what a blur of twice the width keeps."""
    matrix = _gaussian(points, centres, width)
    if band > 0:
        matrix = sp.csr_array(matrix - _gaussian(points, centres, 2 * width))
    for _ in range(band - 1):
        matrix = sp.csr_array(matrix - sp.csr_array(_gaussian(points, points, 2 * width) @ matrix.toarray()))
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = np.divide(1.0 if strength is None else strength, norm, out=np.zeros_like(norm), where=norm > 0)
    scaled = sp.csr_array(sp.diags_array(scale) @ matrix).astype(np.float32)
    return scaled.toarray() if len(centres) <= DENSE else scaled


def _gaussian(points: Floats, centres: Floats, width: float) -> sp.csr_array:
    """(N, M): means of the centres around each point, weighted by a Gaussian; none where all are out of its reach."""
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(centres), CUT * width, output_type="coo_matrix")
    values = np.exp(-0.5 * (pairs.data / width) ** 2)
    total = np.bincount(pairs.row, values, minlength=len(points))
    return sp.csr_array((values / total[pairs.row], (pairs.row, pairs.col)), shape=pairs.shape)


def _relief(template: Mesh, width: float) -> sp.csr_array:
    """(V, V): what blurring over `width` mm would take from a surface."""
    points = template.vertices
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(points), RELIEF_CUT * width, output_type="coo_matrix")
    areas = np.zeros(len(points))
    np.add.at(areas, template.triangles, np.repeat(template.areas[:, None] / 3, 3, axis=1))
    values = np.exp(-0.5 * (pairs.data / width) ** 2) * areas[pairs.col]
    facing = (template.vertex_normals[pairs.row] * template.vertex_normals[pairs.col]).sum(axis=1)
    values = values * (facing > 0)
    total = np.bincount(pairs.row, values, minlength=len(points))
    blurred = sp.csr_array((values / total[pairs.row], (pairs.row, pairs.col)), shape=pairs.shape)
    return sp.csr_array(sp.eye_array(len(points)) - blurred).astype(np.float32)


def _rim(template: Mesh) -> Integers:
    """Vertices at the borders: around the face, and inside the lips."""
    return template.boundary_vertices


def _feature_map(points: Floats) -> Floats:
    """(N,): near 1 where faces have features, near 0 on forehead, cheeks and temples."""
    squares = np.stack([((points - centre) ** 2).sum(axis=1) / reach**2 for centre, reach in FEATURES])
    return np.asarray(1 - np.prod(1 - np.exp(-0.5 * squares), axis=0))


def _rise(values: Floats, low: float, high: float) -> Floats:
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


@compiled()
def _finish(moved, reliefs, gains, where, along, normals, sizes, vertices):  # type: ignore[no-untyped-def]
    """Fill `vertices` (B, V, 3): those `moved` (V, B, 3), their R `reliefs` (R, V, B, 3) times `gains` (R, V, B) as far
    as a map (V,) says where there may be any, and `along` (B, V) the `normals` (V, 3); all times `sizes` (B,)."""
    least, most = np.float32(-0.6), np.float32(0.9)
    for v in range(len(moved)):
        for b in range(len(vertices)):
            for k in range(3):
                vertices[b, v, k] = moved[v, b, k] + along[b, v] * normals[v, k]
            for r in range(len(reliefs)):
                gain = min(max(gains[r, v, b] * where[v], least), most)
                for k in range(3):
                    vertices[b, v, k] += gain * reliefs[r, v, b, k]
            for k in range(3):
                vertices[b, v, k] *= sizes[b]
