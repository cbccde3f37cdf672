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
from meshgan.data.corpora.basis import FaceBasis, Neutral, average_adult, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.folds import EYES, Folds, draw_folds, eye_gap, fold_lines
from meshgan.data.corpora.population import People
from meshgan.geometry.mesh import Mesh

Blur: TypeAlias = Singles | sp.csr_array  # (N, M)


@dataclass(frozen=True)
class Layer:
    """One scale: the blur's `width` (a correlation of √2 width, most energy at wavelengths of 9 widths), and the
    standard deviation `mm` of the displacement's x, y and z where the map of features is 1; `base` is the map's least
    value. `rough` is the deviation of the logarithm of a person's own strength in it."""

    width: float
    mm: tuple[float, float, float]
    base: float = 1.0
    rough: float = 0.2


LAYERS = (
    Layer(42.0, (1.0, 1.0, 1.4), 1.0, 0.0),
    Layer(21.0, (0.6, 0.7, 1.0), 1.0, 0.1),
    Layer(10.5, (0.30, 0.30, 0.40), 0.8, 0.2),
    Layer(5.5, (0.30, 0.30, 0.40), 0.45, 0.3),
    Layer(3.0, (0.16, 0.16, 0.20), 0.15, 0.3),
)
SPACING = 1.2  # widths between centres
CUT = 3.2  # widths beyond which a blur ends
DENSE = 400  # centres up to which a blur is a dense matrix
ASYMMETRY = 0.09  # share of the variance that is not symmetric
REGIONS_WIDTH = 21.0  # mm: the blur of what makes regions differ in strength
REGIONAL = 0.35  # deviation of the logarithm of a region's strength
RELIEFS = ((2.5, 0.22), (5.5, 0.16))  # blur in mm, and deviation of the gain of the relief that it takes away
RELIEF_WIDTH = 10.5  # mm: the blur of the gains
FINEST_MM = 3.3  # the template's edges
FEATURES = (  # where faces have features: centre, reach in mm
    ((-29, 27, 13), 17.0), ((29, 27, 13), 17.0), ((0, 20, 24), 13.0), ((0, -10, 36), 15.0), ((0, -22, 27), 13.0),
    ((0, -42, 28), 22.0), ((-15, -42, 23), 15.0), ((15, -42, 23), 15.0), ((0, -66, 22), 17.0),
    ((-26, 41, 20), 15.0), ((26, 41, 20), 15.0),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Traits:
    """What is personal about B faces: for each layer the noise at its centres (B, M, 3), in mm; the relief's gains
    (B, R, G) at their centres; and the folds."""

    noise: tuple[Singles, ...]
    gains: tuple[Singles, ...]
    folds: Folds

    def of(self, rows: Integers) -> "Traits":
        """The traits of these people."""
        noise, gains = (tuple(part[rows] for part in parts) for parts in (self.noise, self.gains))
        return Traits(noise, gains, self.folds.of(rows))


class Detail:
    """Draws and applies what `Traits` hold, on the face template of the package."""

    def __init__(self, template: Mesh, joint: Floats) -> None:
        self.template = template
        self.lines = fold_lines()
        self.points = np.concatenate([template.vertices, joint[None]])
        self.features = _feature_map(self.points)
        gap = eye_gap(template)
        self.skin = np.append(_rise(gap, 0.3, 5.0), 1.0).astype(np.float32)  # 0 on eyeballs and edges of lids
        self.socket = np.flatnonzero(gap < 5.0)
        arms = template.vertices[self.socket, None] - EYES
        arms = arms[np.arange(len(arms)), np.linalg.norm(arms, axis=2).argmin(axis=1)]
        self.radial = (arms / np.linalg.norm(arms, axis=1, keepdims=True)).astype(np.float32)
        self.held = (1 - _rise(gap[self.socket], 0.3, 5.0)).astype(np.float32)
        self.centres = [_centres(template, SPACING * layer.width) for layer in LAYERS]
        self.blurs = [self._layer(layer, centres) for layer, centres in zip(LAYERS, self.centres, strict=True)]
        self.regions = _centres(template, SPACING * REGIONS_WIDTH)
        self.to_centres = [
            _blur(self.points[centres.index], self.points[self.regions.index], REGIONS_WIDTH, None)
            for centres in self.centres
        ]
        self.relief_centres = _centres(template, SPACING * RELIEF_WIDTH)
        self.gain_blur = _blur(self.points[:-1], self.points[self.relief_centres.index], RELIEF_WIDTH, None)
        self.reliefs = [_relief(template, width) for width, _ in RELIEFS]
        rim = cKDTree(template.vertices[_rim(template)]).query(template.vertices)[0]
        self.relief_map = (_rise(rim, 3.0, 12.0) * self.skin[:-1]).astype(np.float32)
        self.normals = template.vertex_normals.astype(np.float32)

    def _layer(self, layer: Layer, centres: "Centres") -> "Blur":
        strength = layer.base + (1 - layer.base) * self.features
        return _blur(self.points, self.points[centres.index], layer.width, strength)

    def draw(self, people: People, draws: Draws) -> Traits:
        """The traits of each of `people` (B)."""
        folds = draw_folds(self.lines, people, draws)
        young = np.clip((14 - people.phenotype.age) / 10, 0, 1)  # children's faces are rounder and smoother
        noise = []
        for layer, centres, regional in zip(LAYERS, self.centres, self.to_centres, strict=True):
            white = draws.normal(3 * len(centres.index)).reshape(len(young), -1, 3)
            strength = np.exp(layer.rough * draws.normal(1) - layer.rough**2 / 2)
            if layer.rough:
                regions = draws.normal(len(self.regions.index)) @ np.asarray(regional).T
                strength = strength * np.exp(REGIONAL * np.clip(regions, -2, 2) - REGIONAL**2 / 2)
                strength = strength * (1 - 0.3 * young[:, None])
            white = centres.mirrored(white) * strength[..., None] * np.array(layer.mm)
            noise.append(np.clip(white, -2.8 * np.array(layer.mm), 2.8 * np.array(layer.mm)).astype(np.float32))
        gains = []
        for _, size in RELIEFS:
            white = draws.normal(len(self.relief_centres.index))[..., None]
            whole = size * draws.normal(1)
            gains.append((whole + size * self.relief_centres.mirrored(white, False)[..., 0]).astype(np.float32))
        return Traits(tuple(noise), tuple(gains), folds)

    def applied(self, faces: Neutral, traits: Traits) -> Neutral:
        """The faces (B) with their traits."""
        count = len(faces.vertices)
        moved = np.zeros((len(self.points), count * 3), dtype=np.float32)
        for layer, blur, noise in zip(LAYERS, self.blurs, traits.noise, strict=True):
            field = blur @ noise.transpose(1, 0, 2).reshape(noise.shape[1], -1)
            if layer.width < 12:
                self._hold(field.reshape(len(field), count, 3))
            moved += field
        offsets = moved.reshape(-1, count, 3).transpose(1, 0, 2)
        vertices, joints = faces.vertices + offsets[:, :-1], faces.joints + offsets[:, -1]
        flat = vertices.transpose(1, 0, 2).reshape(vertices.shape[1], -1)
        relieved = np.zeros_like(flat)
        for relief, gains in zip(self.reliefs, traits.gains, strict=True):
            gain = (self.gain_blur @ gains.T) * self.relief_map[:, None]
            relieved += (relief @ flat) * np.repeat(np.clip(gain, -0.6, 0.9), 3, axis=1)
        vertices = vertices + relieved.reshape(-1, count, 3).transpose(1, 0, 2)
        along = traits.folds.displacement() + traits.folds.moles()
        vertices += along[..., None] * self.normals
        return Neutral(vertices, joints)

    def _hold(self, field: Singles) -> None:
        """Take from a field (V + 1, B, 3) what would push lids into the eyeball or off it."""
        there = field[self.socket]
        out = np.einsum("vbc,vc->vb", there, self.radial) * self.held[:, None]
        field[self.socket] = there - out[..., None] * self.radial[:, None]


@dataclass(frozen=True, eq=False)
class Centres:
    """Vertices `index` (M,) spread over the template, and for each the place `mirror` (M,) of its mirror image."""

    index: Integers
    mirror: Integers

    def mirrored(self, white: Floats, vectors: bool = True) -> Floats:
        """White noise (B, M, C) made symmetric but for `ASYMMETRY`: still of variance 1."""
        alike = 1 - 2 * ASYMMETRY
        own, other = ((np.sqrt(1 + alike) + sign * np.sqrt(1 - alike)) / 2 for sign in (1, -1))
        image = white[:, self.mirror] * np.array([-1, 1, 1] if vectors else [1])
        middle = (self.mirror == np.arange(len(self.mirror)))[:, None]
        mixed = own * white + other * image
        return np.where(middle, white * (np.array([np.sqrt(ASYMMETRY), 1, 1]) if vectors else 1), mixed)


@cache
def detail() -> Detail:
    """The detail of the face template of the package."""
    basis, template = FaceBasis.read(), face_template()
    adult = basis.neutral(average_adult(), np.zeros((1, len(basis.feature_names))))
    return Detail(template, adult.joints[0] + (template.vertices - adult.vertices[0]).mean(axis=0))


def _centres(template: Mesh, apart: float) -> Centres:
    """Vertices about `apart` mm from each other, in mirrored pairs: the furthest from all so far, again and again."""
    points = template.vertices
    mirror = cKDTree(points).query(points * [-1, 1, 1])[1].astype(np.int64)
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


def _blur(points: Floats, centres: Floats, width: float, strength: Floats | None) -> Blur:
    """(N, M): blurs noise at `centres` (M, 3) so that it has variance 1, or `strength` (N,) squared, at each point."""
    if len(centres) <= DENSE:
        square = ((points[:, None] - centres) ** 2).sum(axis=2)
        matrix = np.exp(-0.5 * square / width**2)
        matrix /= np.sqrt((matrix**2).sum(axis=1, keepdims=True))
        return (matrix if strength is None else matrix * strength[:, None]).astype(np.float32)
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(centres), CUT * width, output_type="coo_matrix")
    values = np.exp(-0.5 * (pairs.data / width) ** 2)
    norm = np.sqrt(np.bincount(pairs.row, values**2, minlength=len(points)))
    scale = 1 / np.maximum(norm, 1e-9) if strength is None else strength / np.maximum(norm, 1e-9)
    far = norm < 1e-9  # the joint of the jaw lies away from the skin
    scale[far] = 0
    return sp.csr_array((((values * scale[pairs.row]).astype(np.float32)), (pairs.row, pairs.col)), shape=pairs.shape)


def _relief(template: Mesh, width: float) -> sp.csr_array:
    """(V, V): what blurring over `width` mm would take from a surface."""
    points = template.vertices
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(points), CUT * width, output_type="coo_matrix")
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
