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

import numpy as np
import scipy
import scipy.sparse as sp

from meshgan.arrays import Floats, Integers, Singles
from meshgan.compiled import compiled
from meshgan.data.corpora.basis import FaceBasis, Neutral, average_adult, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.folds import EYES, Folds, draw_folds, eye_gap, fold_lines
from meshgan.data.corpora.population import People
from meshgan.geometry.mesh import Mesh


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
    Layer(58.0, (1.51, 1.40, 1.94), 1.0, 0.0, 0.01, 0),  # the ones whose blur is nearly dense come first
    Layer(8.7, (0.316, 0.316, 0.434), 1.0, 0.58, band=2),
    Layer(4.5, (0.204, 0.204, 0.262), 0.4, 0.58),
    Layer(2.8, (0.13, 0.13, 0.14), 0.15, 0.5),
)
SIZE, PROPORTIONS = 0.078, (0.048, 0.055, 0.06)  # deviations of the logarithms of a face's scale, and of x, y and z
CHILDREN = 0.6  # how much less of all but the widest layer, and of the relief, children have
DENSE = 2  # layers
COARSE = 12.0  # mm: wider blurs move eyeballs and lids with the head around them; others leave them in place
MOST = 2.6  # deviations at which noise ends
AT_ONCE = 256  # points whose distances from all others are in memory
SPACING = 1.2  # widths between centres
CUT, RELIEF_CUT = 3.0, 2.2  # widths beyond which a blur ends
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
    """What is personal about B faces: the scales `size` (B,) and `proportions` (B, 3) of x, y and z; the `noise`
    (B, M, 3) in mm at the centres of all layers; for each relief the `gains` (R, B, G) at their centres; the folds."""

    size: Floats
    proportions: Floats
    noise: Singles
    gains: Singles
    folds: Folds

    def of(self, rows: Integers) -> "Traits":
        """The traits of these people."""
        own = (self.size[rows], self.proportions[rows], self.noise[rows], self.gains[:, rows])
        return Traits(*own, self.folds.of(rows))


class Detail:
    """Draws and applies what `Traits` hold, on the face template of the package."""

    def __init__(self, template: Mesh, joint: Floats) -> None:
        self.template = template
        self.lines = fold_lines()
        self.points = np.concatenate([template.vertices, joint[None], EYES])
        self.features = _feature_map(self.points)
        gap = eye_gap(template)
        arms = template.vertices[:, None] - EYES
        eye = np.linalg.norm(arms, axis=2).argmin(axis=1)
        arms = arms[np.arange(len(arms)), eye]
        balls = [np.flatnonzero((eye == number) & (gap < 0.05)) for number in range(len(EYES))]
        self.balls = [
            (ball, (EYES[number] - template.vertices[ball].mean(axis=0)).astype(np.float32))
            for number, ball in enumerate(balls)
        ]
        radial = (arms / np.linalg.norm(arms, axis=1, keepdims=True)).astype(np.float32)
        held = np.where(gap < 5.0, 1 - _rise(gap, 0.3, 5.0), 0.0).astype(np.float32)
        self.sockets = eye, radial, held  # whose lids and skin go with an eye, and how far
        self.centres = [_centres(template, SPACING * layer.width) for layer in LAYERS]
        blurs = [self._layer(layer, centres) for layer, centres in zip(LAYERS, self.centres, strict=True)]
        self.dense = sp.hstack(blurs[:DENSE]).toarray()
        self.blur = sp.csr_array(sp.hstack(blurs[DENSE:]))
        self.regions = _centres(template, SPACING * REGIONS_WIDTH)
        self.to_centres = [
            _blur(self.points[centres.index], self.points[self.regions.index], REGIONS_WIDTH).toarray()
            for centres in self.centres
        ]
        self.relief_centres = _centres(template, SPACING * RELIEF_WIDTH)
        rim = scipy.spatial.cKDTree(template.vertices[_rim(template)]).query(template.vertices)[0]
        where = _rise(rim, 3.0, 12.0) * _rise(gap, 0.3, 5.0)  # elsewhere relief stays as it is
        self.gain_blur = _blur(template.vertices, self.points[self.relief_centres.index], RELIEF_WIDTH, where)
        self.reliefs = sp.csr_array(sp.vstack([_relief(template, width) for width, _ in RELIEFS]))
        self.mirror = opposite(template.vertices)
        self.normals = template.vertex_normals.astype(np.float32)

    def _layer(self, layer: Layer, centres: "Centres") -> sp.csr_array:
        strength = layer.base + (1 - layer.base) * self.features
        if layer.width <= COARSE:
            strength[-len(EYES) :] = 0
        return _blur(self.points, self.points[centres.index], layer.width, strength, layer.band)

    def draw(self, people: People, draws: Draws) -> Traits:
        """The traits of each of `people` (B)."""
        folds = draw_folds(self.lines, people, draws)
        own = np.clip(draws.normal(4), -2.5, 2.5)
        size, proportions = np.exp(SIZE * own[:, 0]), np.exp(np.array(PROPORTIONS) * own[:, 1:])
        young = np.clip((16 - people.phenotype.age) / 9, 0, 1)  # children's faces are rounder and smoother
        calm = 1 - CHILDREN * young[:, None]
        noise = np.empty((len(young), sum(len(centres.index) for centres in self.centres), 3), dtype=np.float32)
        start = 0
        for layer, centres, regional in zip(LAYERS, self.centres, self.to_centres, strict=True):
            white = draws.normal(3 * len(centres.index)).reshape(len(young), -1, 3)
            strength = np.exp(layer.rough * np.clip(draws.normal(1), -2, 2) - layer.rough**2)  # of mean square 1
            if layer.rough:
                regions = draws.normal(len(self.regions.index)) @ regional.T
                strength = strength * np.exp(REGIONAL * np.clip(regions, -2, 2) - REGIONAL**2)
                strength = strength * calm
            strength = np.ascontiguousarray(np.broadcast_to(strength, white.shape[:2]))
            part = noise[:, start : start + len(centres.index)]
            _strengthened(centres.mirrored(white, layer.asymmetry), strength, np.array(layer.mm), MOST, part)
            start += len(centres.index)
        gains = np.empty((len(RELIEFS), len(young), len(self.relief_centres.index)), dtype=np.float32)
        for own_gains, (_, gain) in zip(gains, RELIEFS, strict=True):
            white = draws.normal(len(self.relief_centres.index))[..., None]
            local = self.relief_centres.mirrored(white, RELIEF_ASYMMETRY, vectors=False)[..., 0]
            own_gains[:] = gain * calm * (0.5 * draws.normal(1) + local)
        return Traits(size, proportions, noise, gains, folds)

    def applied(self, faces: Neutral, traits: Traits) -> Neutral:
        """The faces (B) with their traits."""
        vertices, eyes = faces.vertices, slice(-len(EYES), None)
        count, last = vertices.shape[:2]
        growth, size = (traits.proportions - 1).astype(np.float32), traits.size.astype(np.float32)
        # of all faces side by side: a row of 3 B numbers for each vertex, the joint of the jaw and the eyes
        noise = np.ascontiguousarray(traits.noise.transpose(1, 0, 2)).reshape(traits.noise.shape[1], -1)
        field = (self.dense @ noise[: self.dense.shape[1]]).reshape(-1, count, 3)
        middle = np.full(last, 1 / last, dtype=np.float32) @ vertices
        field[last] += (faces.joints - middle) * growth
        for row, (ball, into) in zip(field[eyes], self.balls, strict=True):
            row += (vertices[:, ball].mean(axis=1) + into - middle) * growth
        _place(field, *_parts(self.blur), noise[self.dense.shape[1] :], vertices, middle, growth, *self.sockets)
        joints = faces.joints + field[last]
        gains = np.ascontiguousarray(traits.gains.transpose(2, 0, 1)).reshape(traits.gains.shape[2], -1)
        along = traits.folds.displacement() + traits.folds.moles()
        grown = np.empty_like(vertices)
        _finish(field, *_parts(self.reliefs), *_parts(self.gain_blur), gains, along, self.normals, size, grown)
        return Neutral(grown, joints * size[:, None])

    def asymmetry(self, faces: Singles) -> Floats:
        """How far (B,) in mm, root mean square, faces (B, V, 3) in the template's place lie from being symmetric."""
        squares = np.empty(len(faces))
        _asymmetry(faces, self.mirror, squares)
        return np.sqrt(squares / faces.shape[1]) / 2


@dataclass(frozen=True, eq=False)
class Centres:
    """Vertices `index` (M,) spread over the template, and for each the place `mirror` (M,) of its mirror image."""

    index: Integers
    mirror: Integers

    def mirrored(self, white: Floats, asymmetry: float, vectors: bool = True) -> Floats:
        """White noise (B, M, C) made symmetric but for a share of its variance, which stays 1."""
        alike = 1 - 2 * asymmetry
        own, other = ((np.sqrt(1 + alike) + sign * np.sqrt(1 - alike)) / 2 for sign in (1, -1))
        signs, alone = (np.array([-1.0, 1, 1]), np.array([np.sqrt(asymmetry), 1, 1])) if vectors else np.ones((2, 1))
        mixed = np.empty_like(white)
        _mirrored(white, self.mirror, own, other, signs, alone, mixed)
        return mixed


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
    return scipy.spatial.cKDTree(points).query(points * [-1, 1, 1])[1].astype(np.int64)


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
            x, y, z = points.T - points[vertex][:, None]
            away = np.minimum(away, np.sqrt(x * x + y * y + z * z))
        rounded = away.round(3)  # mirrored vertices are equally far, whatever the last bits say
        place = int(np.flatnonzero(rounded == rounded.max())[0])
        if rounded[place] < apart:
            break
    index = np.array(chosen, dtype=np.int64)
    places = {vertex: i for i, vertex in enumerate(chosen)}
    return Centres(index, np.array([places[int(mirror[vertex])] for vertex in chosen]))


def _blur(points: Floats, centres: Floats, width: float, strength: Floats | None = None, band: int = 0) -> sp.csr_array:
    """(N, M): blurs noise at `centres` (M, 3) so that it has variance 1, or `strength` (N,) squared, at each point;
    `band` times without what a blur of twice the width keeps."""
    matrix = _gaussian(points, centres, width)
    if band > 0:
        matrix = sp.csr_array(matrix - _gaussian(points, centres, 2 * width))
    for _ in range(band - 1):
        matrix = sp.csr_array(matrix - sp.csr_array(_blurred(points, 2 * width, matrix.toarray())))
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = np.divide(1.0 if strength is None else strength, norm, out=np.zeros_like(norm), where=norm > 0)
    return sp.csr_array(sp.diags_array(scale) @ matrix).astype(np.float32)


def _gaussian(points: Floats, centres: Floats, width: float) -> sp.csr_array:
    """(N, M): means of the centres around each point, weighted by a Gaussian; none where all are out of its reach."""
    pairs = scipy.spatial.cKDTree(points).sparse_distance_matrix(
        scipy.spatial.cKDTree(centres), CUT * width, output_type="coo_matrix"
    )
    values = np.exp(-0.5 * (pairs.data / width) ** 2)
    total = np.bincount(pairs.row, values, minlength=len(points))
    return sp.csr_array((values / total[pairs.row], (pairs.row, pairs.col)), shape=pairs.shape)


def _blurred(points: Floats, width: float, values: Floats) -> Floats:
    """(N, M): `values` (N, M) of points (N, 3), blurred by the Gaussian of `_gaussian`; which is no longer sparse."""
    blurred, squares, values = np.empty_like(values), (points**2).sum(axis=1), values.astype(np.float32)
    for start in range(0, len(points), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        away = squares[rows, None] + squares - 2 * points[rows] @ points.T
        near = np.exp((away * (-0.5 / width**2)).astype(np.float32))  # twice as quick, and to 1e-7
        near[away >= (CUT * width) ** 2] = 0
        blurred[rows] = near @ values / near.sum(axis=1, keepdims=True)
    return blurred


def _relief(template: Mesh, width: float) -> sp.csr_array:
    """(V, V): what blurring over `width` mm would take from a surface."""
    points = template.vertices
    pairs = scipy.spatial.cKDTree(points).sparse_distance_matrix(
        scipy.spatial.cKDTree(points), RELIEF_CUT * width, output_type="coo_matrix"
    )
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


def _parts(matrix: sp.csr_array) -> tuple[Integers, Integers, Singles]:
    return matrix.indptr, matrix.indices, matrix.data


@compiled()
def _mirrored(white, mirror, own, other, signs, alone, mixed):  # type: ignore[no-untyped-def]
    """Fill `mixed` (B, M, C) with `own` times white noise and `other` times its mirror image, whose columns have these
    `signs`; where a centre is its own image, with noise times `alone` (C,)."""
    for b in range(len(white)):
        for i in range(len(mirror)):
            for k in range(len(signs)):
                if mirror[i] == i:
                    mixed[b, i, k] = alone[k] * white[b, i, k]
                else:
                    mixed[b, i, k] = own * white[b, i, k] + other * signs[k] * white[b, mirror[i], k]


@compiled()
def _strengthened(white, strength, mm, most, noise):  # type: ignore[no-untyped-def]
    """Fill `noise` (B, M, 3): white noise that ends at `most`, times `strength` (B, M) and `mm` (3,)."""
    for b in range(len(white)):
        for i in range(white.shape[1]):
            for k in range(3):
                noise[b, i, k] = min(max(white[b, i, k], -most), most) * strength[b, i] * mm[k]


@compiled(fastmath={"contract"})
def _add_row(row, starts, columns, values, factors, total):  # type: ignore[no-untyped-def]
    """Add to `total` (n,) row number `row` of a sparse matrix, in CSR form, times `factors` (M, n)."""
    for entry in range(starts[row], starts[row + 1]):
        value, factor = values[entry], factors[columns[entry]]
        for k in range(len(total)):
            total[k] += value * factor[k]


@compiled()
def _place(field, starts, columns, values, noise, faces, middle, growth, eyes, radial, held):  # type: ignore[no-untyped-def]
    """Make a `field` (V + 3, B, 3) of displacements the places of the vertices of `faces` (B, V, 3).

    To the field come a sparse blur of `noise` (M, 3 B), and `growth` (B, 3) from the `middle` (B, 3) of each face. The
    last rows of the field, the joint of the jaw and the eyes, have all but the former. It moves eyeballs as these are
    moved, and lids not into them or off them: of what vertex v does against its eye, `eyes` (V,), along `radial`
    (V, 3), the share `held` (V,) is taken away.
    """
    for v in range(len(field)):
        row = field[v]
        _add_row(v, starts, columns, values, noise, row.reshape(-1))
        if v >= len(eyes):
            continue
        eye = field[len(eyes) + 1 + eyes[v]]
        for b in range(len(faces)):
            for k in range(3):
                row[b, k] += (faces[b, v, k] - middle[b, k]) * growth[b, k]
            if held[v] > 0:
                out = np.float32(0)
                for k in range(3):
                    out += (row[b, k] - eye[b, k]) * radial[v, k]
                for k in range(3):
                    row[b, k] -= out * held[v] * radial[v, k]
            for k in range(3):
                row[b, k] += faces[b, v, k]


@compiled()
def _finish(  # type: ignore[no-untyped-def]
    places, starts, columns, values, gain_starts, gain_columns, gain_values, gains, along, normals, sizes, faces
):
    """Fill `faces` (B, V, 3): their `places` (V or more, B, 3), R reliefs of these, a sparse matrix (R V, V), times the
    blurred `gains` (M, R B), and `along` (B, V) the `normals` (V, 3); all times `sizes` (B,)."""
    least, most = np.float32(-0.6), np.float32(0.9)
    count, flat = len(faces), places.reshape(len(places), -1)
    gain = np.empty(gains.shape[1], dtype=np.float32)
    relief, moved = np.empty(3 * count, dtype=np.float32), np.empty(3 * count, dtype=np.float32)
    for v in range(len(normals)):
        gain[:] = 0.0
        _add_row(v, gain_starts, gain_columns, gain_values, gains, gain)
        moved[:] = flat[v]
        for r in range(len(gain) // count):
            relief[:] = 0.0
            _add_row(r * len(normals) + v, starts, columns, values, flat, relief)
            for b in range(count):
                amount = min(max(gain[r * count + b], least), most)
                for k in range(3):
                    moved[3 * b + k] += amount * relief[3 * b + k]
        for b in range(count):
            for k in range(3):
                faces[b, v, k] = (moved[3 * b + k] + along[b, v] * normals[v, k]) * sizes[b]


@compiled()
def _asymmetry(faces, mirror, squares):  # type: ignore[no-untyped-def]
    """Fill `squares` (B,): the sums of squared distances of faces (B, V, 3) from their mirror images."""
    for b in range(len(faces)):
        total = 0.0
        for v in range(len(mirror)):
            x = faces[b, v, 0] + faces[b, mirror[v], 0]
            y, z = faces[b, v, 1] - faces[b, mirror[v], 1], faces[b, v, 2] - faces[b, mirror[v], 2]
            total += x * x + y * y + z * z
        squares[b] = total
