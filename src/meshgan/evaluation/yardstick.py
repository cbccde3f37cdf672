"""The test faces as a yardstick, and the scores that samples get against it: one row of a table.

For every row alike:

- specificity, diversity and shape Fréchet distance: all samples (diversity: in disjoint pairs);
- coverage, precision, recall: as many samples as there are test faces; the last two in shape space, k = 3;
- FID: `IMAGES` samples, 64×64, by the camera and light for measurements, `Camera.frontal` and `LAMBERT`.

Shape space: the 50 strongest principal components of the training part, coordinates divided by √V, so that a distance
in it is a root mean square over vertices in mm, and a Fréchet distance there is in mm², whatever the template.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from meshgan.arrays import Booleans, Bytes, Faces, Floats, Integers, Reals, Singles
from meshgan.data.faceset import FaceSet
from meshgan.evaluation.frechet import Gaussian, frechet_distance, frechet_interval
from meshgan.evaluation.inception import inception_features
from meshgan.evaluation.metrics import (
    Interval,
    Summary,
    bootstrap_interval,
    covered,
    inside_manifold,
    pair_distances,
    specificity,
    summarise,
)
from meshgan.evaluation.nearest import FaceIndex
from meshgan.model.model_folder import Sampler
from meshgan.model.principal import Components, principal_components
from meshgan.view.raster import Camera, render

IMAGES = 2500  # samples that are rendered for the FID
SIZE = 64  # of an image
COMPONENTS = 50  # of the shape space
SHAPE_RESAMPLES, FID_RESAMPLES = 200, 20  # of the bootstrap; one of the FID takes a second

Fid = Literal["inception", "off"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Row:
    """The scores of faces from one source: a model under one sampler, or real faces ("none")."""

    sampler: Sampler | Literal["none"]
    samples: int
    specificity_mm: Summary
    diversity_mm: Summary
    coverage: Estimate
    precision: Estimate
    recall: Estimate
    shape_frechet_mm2: Estimate
    fid: Estimate | None


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The test faces, prepared for measuring."""

    index: FaceIndex
    space: Components
    shapes: Floats  # (M, 50) test faces in shape space
    triangles: Integers
    camera: Camera
    features: Singles | None  # (M, 2048) of the test faces' images, if the FID is wanted

    @classmethod
    def of(cls, faces: FaceSet, fid: Fid) -> "Yardstick":
        """Prepare the test part of a FaceSet; the shape space comes from its training part."""
        test = np.asarray(faces.vertices[faces.split.test])
        space = principal_components(faces.vertices, faces.split.train, COMPONENTS)
        camera, triangles = Camera.frontal(faces.template.vertices), faces.template.triangles
        features = None
        if fid == "inception":
            features = inception_features(render(test, triangles, SIZE, camera=camera), "Features of the test faces")
        return cls(FaceIndex.build(test), space, shape_codes(space, test), triangles, camera, features)

    def measure(self, blocks: Iterable[Faces], sampler: Sampler | Literal["none"], seed: int) -> Row:
        """Score faces, which come in blocks (B, V, 3) in a random order; only a block is held in memory."""
        nearest, distances, pairs, shapes = [], [], [], []
        images: list[Bytes] = []
        for block in blocks:
            found = self.index.nearest(block)
            nearest.append(found.index)
            distances.append(found.distance)
            pairs.append(pair_distances(block, seed))
            shapes.append(shape_codes(self.space, block))
            if self.features is not None and sum(len(drawn) for drawn in images) < IMAGES:
                images.append(render(block, self.triangles, SIZE, camera=self.camera))
        codes, count = np.concatenate(shapes), len(self.shapes)
        return Row(
            sampler=sampler,
            samples=len(codes),
            specificity_mm=specificity(np.concatenate(distances), seed),
            diversity_mm=summarise(np.concatenate(pairs), seed),
            coverage=_share(covered(np.concatenate(nearest)[:count], count), seed),
            precision=_share(inside_manifold(codes[:count], self.shapes), seed),
            recall=_share(inside_manifold(self.shapes, codes[:count]), seed),
            shape_frechet_mm2=_frechet(codes, self.shapes, SHAPE_RESAMPLES),
            fid=self._fid(images),
        )

    def _fid(self, images: list[Bytes]) -> Estimate | None:
        if self.features is None:
            return None
        features = inception_features(np.concatenate(images)[:IMAGES], "Features of samples")
        return _frechet(features, self.features, FID_RESAMPLES)


def shape_codes(space: Components, faces: Faces) -> Floats:
    """Coordinates (N, 50) of faces (N, V, 3) in shape space: root mean square mm along each component."""
    return space.codes(faces).astype(np.float64) / math.sqrt(faces.shape[1])


def _share(hits: Booleans, seed: int) -> Estimate:
    return Estimate(float(hits.mean()), bootstrap_interval(hits.astype(np.float64), np.mean, seed=seed))


def _frechet(features: Reals, real: Reals, resamples: int) -> Estimate:
    value = frechet_distance(Gaussian.of_features(features), Gaussian.of_features(real))
    return Estimate(value, frechet_interval(features, real, resamples))
