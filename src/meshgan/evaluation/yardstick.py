"""The table of metrics, and the test faces as the yardstick that samples are measured by: one row of a results table.

`METRICS` is the one place that knows a metric: its name in JSON, its heading and unit, which way is better, how its
interval comes about, what it is blind to, and the function that measures it. Rows, headings, files, pages and the table
in docs/evaluation.md follow from it: a new metric is one function and one entry.

Shape space: the 50 strongest principal components of the training part, coordinates divided by √V, so that a distance
in it is a root mean square over vertices in mm, and a Fréchet distance there is in mm², whatever the template.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from meshgan.arrays import Booleans, Bytes, Faces, Floats, Integers, Reals, Singles
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.data.principal import Components, principal_components
from meshgan.evaluation.metrics import (
    Gaussian,
    Score,
    covered,
    detail,
    frechet_distance,
    frechet_interval,
    inside_manifold,
    kernel_distance,
    mean_score,
    memorising,
    pair_distances,
    share_score,
)
from meshgan.evaluation.nearest import FaceIndex
from meshgan.geometry.laplacian import BANDS, BandFilter
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import EXCUSED, faults, folded, intersecting
from meshgan.model.model_folder import Sampler
from meshgan.view.raster import LAMBERT, Camera, Light, render

IMAGES = 2500  # samples that are rendered
SIZE, LARGE = 64, 256  # of an image
COMPONENTS = 50  # of the shape space
COARSE = 64  # principal components beyond which there is detail
DETAILED, MEMORIES, CHECKED = 1000, 2000, 300  # samples whose detail, nearest training face and validity are measured
SHAPE_RESAMPLES, FID_RESAMPLES = 200, 20  # of the bootstrap; one of the FID takes a second
THREE_QUARTERS = 35.0  # degrees that the face looks aside
RAKING = Light(  # shape alone, seen in grazing light
    directions=((-0.8, 0.5, 0.55),), strengths=((1.0,),), ambient=(0.04,), albedo=(1.0,), background=(0.0,), srgb=False
)
BAND_NAMES = tuple(f"{long:g}-{short:g} mm" for long, short in BANDS)

Fid = Literal["inception", "off"]
Part = Literal["test", "validation"]
Source = Sampler | Literal["none"]  # "none": real faces


@dataclass(frozen=True, eq=False)
class Seen:
    """What is kept of the faces that are measured: of all, or of as many of the first as some metrics ask for."""

    source: Source
    nearest: Integers  # (N,) the nearest test face
    distances: Floats  # (N,) mm to it
    pairs: Reals  # (N // 2,) mm between the two faces of disjoint pairs
    shapes: Floats  # (N, 50) in shape space
    to_train: Floats  # mm to the nearest training face
    energies: Floats  # (n, B) mm² beyond the 64 strongest components, by wavelength
    faults: Booleans  # (n, 2) has a triangle folded over, has one that passes through another
    features: Singles | None  # (n, 2048) of 64-pixel pictures
    large_features: Singles | None  # (n, 2048) of 256-pixel pictures


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The test faces, prepared for measuring, and what the training part says."""

    template: Mesh
    index: FaceIndex
    train_index: FaceIndex
    unseen: tuple[Floats, Floats] | None  # mm from faces of the validation part to training and to test faces
    space: Components
    shapes: Floats  # (M, 50) test faces in shape space
    bands: BandFilter
    energies: Floats  # (n, B) of test faces
    sound: Booleans  # (F,) triangles at which hardly any real face has a fault
    camera: Camera
    features: Singles | None  # (M, 2048) of the test faces' pictures, if they are wanted
    large_features: Singles | None

    @classmethod
    def of(cls, faces: FaceSet, fid: Fid, part: Part = "test") -> "Yardstick":
        """Prepare the test part of a FaceSet, or another; the shape space comes from its training part.

        With the validation part no face is left that is neither known nor measured against, so that memorising is not
        measured: choices must not see the test part.
        """
        parts = (faces.split.part(part), faces.split.validation)
        test, validation = (np.asarray(faces.vertices[rows]) for rows in parts)
        space = principal_components(faces.vertices, faces.split.train, COARSE)
        camera, template = Camera.frontal(faces.template.vertices), faces.template
        index, train_index = FaceIndex.build(test), FaceIndex.build(np.asarray(faces.vertices[faces.split.train]))
        bands = BandFilter.of(template)
        detailed = test[some_rows(np.arange(len(test)), DETAILED)]
        real = faces.vertices[some_rows(faces.split.train, CHECKED)]
        sound = faults(real, template).mean(axis=0) < EXCUSED
        unseen = None
        if part == "test" and len(validation) > 1:
            unseen = (train_index.nearest(validation).distance, index.nearest(validation).distance)
        features = large_features = None
        if fid == "inception":
            features, large_features = (
                _features(images, f"Features of the test faces, {size} pixels")
                for images, size in zip(_pictures(test, template, camera), (SIZE, LARGE), strict=True)
            )
        return cls(
            template, index, train_index, unseen, space, shape_codes(space, test),
            bands, bands.energies(beyond(space, detailed)), sound, camera,
            features, large_features,
        )  # fmt: skip

    def look(self, blocks: Iterable[Faces], source: Source, seed: int) -> Seen:
        """Take from faces what the metrics need; they come in blocks (B, V, 3) in a random order, and none is kept."""
        glances: list[dict[str, Any]] = []
        images: list[tuple[Bytes, Bytes]] = []
        count = 0
        for block in blocks:
            found = self.index.nearest(block)
            first = [block[: max(0, most - count)] for most in (MEMORIES, DETAILED, CHECKED)]
            glances.append(
                {
                    "nearest": found.index,
                    "distances": found.distance,
                    "pairs": pair_distances(block, seed),
                    "shapes": shape_codes(self.space, block),
                    "to_train": self.train_index.nearest(first[0]).distance,
                    "energies": self.bands.energies(beyond(self.space, first[1])),
                    "faults": self._faults(first[2]),
                }
            )
            if self.features is not None and count < IMAGES:
                images.append(_pictures(block[: IMAGES - count], self.template, self.camera))
            count += len(block)
        whole = {name: np.concatenate([glance[name] for glance in glances]) for name in glances[0]}
        features = [
            _features(np.concatenate(drawn), f"Features of samples, {size} pixels")
            for drawn, size in zip(zip(*images, strict=True), (SIZE, LARGE), strict=bool(images))
        ]
        small, large = features or (None, None)
        return Seen(source=source, features=small, large_features=large, **whole)

    def measure(self, blocks: Iterable[Faces], source: Source, seed: int) -> "Row":
        """Score faces, which come in blocks (B, V, 3) in a random order."""
        seen = self.look(blocks, source, seed)
        scores = {metric.key(): metric.measure(seen, self, seed) for metric in METRICS if metric.measure is not None}
        return Row(sampler=source, samples=len(seen.shapes), scores=scores)

    def _faults(self, faces: Faces) -> Booleans:
        """Which faces (n, 2) have, where real faces have none, a triangle folded over, and one that passes through."""
        found = (folded(faces, self.template), intersecting(faces, self.template.triangles))
        return np.stack([faults[:, self.sound].any(axis=1) for faults in found], axis=1)


@dataclass(frozen=True)
class Metric:
    """One metric; `measure` says what it is of samples, None where it is not of samples but of the model itself."""

    name: str
    heading: str
    unit: Literal["", "mm", "mm2"]
    digits: int
    better: Literal["lower", "higher", "as real"]
    what: str  # for docs/evaluation.md
    of: str
    interval: str
    blind: str
    measure: Callable[[Seen, Yardstick, int], Score | None] | None
    spread: bool = False  # ± one standard deviation is shown

    def key(self, part: str = "") -> str:
        """The name in JSON, of the value or of a `part`: "std", "interval", "parts"."""
        return "_".join(
            word for word in (self.name, part, self.unit) if word and not (part == "parts" and word == self.unit)
        )


def _share_of_covered(seen: Seen, real: Yardstick, seed: int) -> Score:
    count = len(real.shapes)
    return share_score(covered(seen.nearest[:count], count), seed)


def _detail(seen: Seen, real: Yardstick, seed: int) -> Score | None:
    """None where training faces are no more than components: nothing that they show lies beyond those."""
    if len(real.train_index.faces) <= COARSE:
        return None
    return detail(seen.energies, real.energies, BAND_NAMES, seed)


def _precision(seen: Seen, real: Yardstick, seed: int) -> Score:
    return share_score(inside_manifold(seen.shapes[: len(real.shapes)], real.shapes), seed)


def _recall(seen: Seen, real: Yardstick, seed: int) -> Score:
    return share_score(inside_manifold(real.shapes, seen.shapes[: len(real.shapes)]), seed)


def _validity(seen: Seen, real: Yardstick, seed: int) -> Score:
    score = share_score(np.asarray(~seen.faults.any(axis=1)), seed)
    parts = dict(zip(("folded", "intersecting"), map(float, seen.faults.mean(axis=0)), strict=True))
    return Score(score.value, None, score.interval, parts | {"triangles": float(real.sound.mean())})


def _memorising(seen: Seen, real: Yardstick, seed: int) -> Score | None:
    if real.unseen is None:
        return None
    ratio = float(real.unseen[0].mean() / max(float(real.unseen[1].mean()), 1e-12))
    if seen.source == "none":  # training faces would be their own copies
        return memorising(*real.unseen, ratio, seed)
    return memorising(seen.to_train, seen.distances[: len(seen.to_train)], ratio, seed)


def _frechet(features: Reals | None, real: Reals | None, resamples: int) -> Score | None:
    if features is None or real is None:
        return None
    value = frechet_distance(Gaussian.of_features(features), Gaussian.of_features(real))
    return Score(value, None, frechet_interval(features, real, resamples))


def _kid(seen: Seen, real: Yardstick, seed: int) -> Score | None:
    if seen.large_features is None or real.large_features is None:
        return None
    return kernel_distance(seen.large_features, real.large_features, seed=seed)


MEAN, SHARE, ERROR = "bootstrap of the mean", "bootstrap of the share", "± 1.96 bootstrap standard errors"
METRICS = (
    Metric(
        "generalisation", "Generalisation, mm", "mm", 3, "lower",
        "distance of unseen faces to their best reconstruction, Eq. 2", "all test faces", MEAN,
        "what the model makes of its own accord", None, spread=True,
    ),
    Metric(
        "specificity", "Specificity, mm", "mm", 3, "as real",
        "distance of samples to the nearest test face (Davies 2002, Styner et al. 2003)", "all samples", MEAN,
        "**collapse**: the mean face scores best of all",
        lambda seen, real, seed: mean_score(seen.distances, seed), spread=True,
    ),
    Metric(
        "fid", "FID", "", 2, "lower",
        "Fréchet distance of Inception features of 64×64 pictures from the front (Heusel et al. 2017)",
        "2,500 samples, all test faces", ERROR, "what a small frontal picture does not show; memorising",
        lambda seen, real, seed: _frechet(seen.features, real.features, FID_RESAMPLES),
    ),
    Metric(
        "fid256", "FID 256", "", 2, "lower",
        "the same of 256×256 pictures in raking light, seen at three quarters", "2,500 samples, all test faces", ERROR,
        "the far side of the face; memorising",
        lambda seen, real, seed: _frechet(seen.large_features, real.large_features, FID_RESAMPLES),
    ),
    Metric(
        "kid", "KID", "", 4, "lower",
        "kernel distance of the same features, without the bias of small sets (Bińkowski et al. 2018)",
        "2,500 samples, all test faces", "± 1.96 standard errors of 50 subsets", "as FID 256",
        _kid,
    ),
    Metric(
        "shape_frechet", "Shape Fréchet, mm²", "mm2", 2, "lower",
        "Fréchet distance in shape space", "all samples, all test faces", ERROR,
        "what is not Gaussian; all beyond 50 components",
        lambda seen, real, seed: _frechet(seen.shapes, real.shapes, SHAPE_RESAMPLES),
    ),
    Metric(
        "diversity", "Diversity, mm", "mm", 2, "as real",
        "distance between the two samples of a pair (Yuan and Kitani 2020)", "all samples, disjoint pairs", MEAN,
        "quality: noise is diverse",
        lambda seen, real, seed: mean_score(seen.pairs, seed),
    ),
    Metric(
        "coverage", "Coverage", "", 3, "higher",
        "share of test faces that are some sample's nearest (Achlioptas et al. 2018)",
        "as many samples as test faces", SHARE, "how far away the sample is",
        _share_of_covered,
    ),
    Metric(
        "precision", "Precision", "", 3, "higher",
        "share of samples within the manifold of test faces (Kynkäänniemi et al. 2019, k = 3)",
        "as many samples as test faces, shape space", SHARE, "collapse, memorising",
        _precision,
    ),
    Metric(
        "recall", "Recall", "", 3, "higher",
        "share of test faces within the manifold of samples", "the same", SHARE, "quality outside it",
        _recall,
    ),
    Metric(
        "detail", "Detail", "", 3, "lower",
        "distance of log band energies beyond the 64 strongest principal components, between samples and test faces",
        "1,000 samples, 1,000 test faces", "bootstrap of both sides",
        "where on the face the detail is, and whether it belongs there: noise of the right spectrum scores 0",
        _detail,
    ),
    Metric(
        "validity", "Validity", "", 3, "higher",
        "share of samples without a triangle that is folded over a neighbour or passes through another",
        "300 samples", SHARE,
        "places where a hundredth or more of the training faces have such a fault themselves (closed lips, lids)",
        _validity,
    ),
    Metric(
        "memorising", "Memorising", "", 3, "as real",
        "distance to the nearest training face over that to the nearest test face, relative to faces of neither part",
        "2,000 samples, all training and test faces", "bootstrap of the ratio",
        "copies of a part of a face; a model of few faces far from all of them",
        _memorising,
    ),
)  # fmt: skip
BY_KEY: Mapping[str, Metric] = {metric.key(): metric for metric in METRICS}


class Scored(BaseModel):
    """Something with a score for each metric: in JSON, and to those who make one, its scores are fields of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: dict[str, Score | None] = {}

    def score(self, key: str) -> Score | None:
        """The score under a metric, None where it was not measured. Raises `KeyError` for names that are none."""
        return self.scores.get(BY_KEY[key].key())


class Row(Scored):
    """The scores of faces from one source: a model under one sampler, or real faces ("none")."""

    sampler: Source
    samples: int

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "scores" in data:
            return data
        others = {key: value for key, value in data.items() if key not in BY_KEY}
        return others | {"scores": {key: value for key, value in data.items() if key in BY_KEY}}

    @model_serializer(mode="wrap")
    def _spread(self, serialise: Callable[["Row"], dict[str, Any]]) -> dict[str, Any]:
        plain = serialise(self)
        return {key: value for key, value in plain.items() if key != "scores"} | plain["scores"]


def shape_codes(space: Components, faces: Faces) -> Floats:
    """Coordinates (N, 50) of faces (N, V, 3) in shape space: root mean square mm along each component."""
    return space.codes(faces)[:, :COMPONENTS].astype(np.float64) / math.sqrt(faces.shape[1])


def beyond(space: Components, faces: Faces) -> Faces:
    """What the components of a space leave of faces (N, V, 3)."""
    return faces - space.faces(space.codes(faces)) if len(faces) else faces


def _features(images: Bytes, title: str) -> Singles:
    from meshgan.evaluation.inception import inception_features  # with PyTorch

    return inception_features(images, title)


def _pictures(faces: Faces, template: Mesh, camera: Camera) -> tuple[Bytes, Bytes]:
    """Pictures of faces: small ones from the front, and large ones in raking light, seen at three quarters."""
    aside = Camera(camera.width_mm, camera.centre, yaw=THREE_QUARTERS)
    small = render(faces, template.triangles, SIZE, camera=camera, light=LAMBERT)
    return small, render(faces, template.triangles, LARGE, camera=aside, light=RAKING)
