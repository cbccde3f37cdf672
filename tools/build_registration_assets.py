"""What registration knows of the default template, derived from the corpus: src/meshgan/registration/assets/.

face_prior.npz       the principal components of the corpora's faces (neutral ones, and expressions) and of plain people
detector_points.npz  where on the template the face detector sees its points

For the second, the detector looks at faces of the corpus, whose every surface point is known on the template, exactly
as it looks at scans: from three sides, lifted to the surface. Each of its points is then somewhere on the template on
average, and scatters about that place. Needs the extra `[landmarks]`; takes some five minutes.

Either holds some faces of the corpora it was made from, and a fingerprint of the numbers here and of what it holds, so
that tests can tell one that this tool, as it is now, would not make.

    python tools/build_registration_assets.py
"""

import hashlib
import sys

import numpy as np
from numpy.typing import NDArray

from meshgan.data.corpora.basis import face_basis, face_template
from meshgan.geometry.decomposition import principal_axes
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points
from meshgan.registration.fake_scans import corpus_people, plain_people
from meshgan.registration.finding import HALF_WIDTH, detect
from meshgan.registration.landmarks import POINTS, Detector
from meshgan.registration.prior import Prior, learn
from meshgan.registration.scan import Frame, Scene
from meshgan.registration.templates import OWN

NEUTRAL, EXPRESSIVE, SEED = 6144, 9000, 771  # the corpora that are made by default have seed 0: they are other people
PLAIN, ACTIVE = 2000, 0.15  # plain people, of whom every other one moves this share of the facial actions
PLAIN_COMPONENTS, PLAIN_SHARE = 200, 0.75
CLOSED = 0.7  # deviation of how far each eye is closed, beside what expressions do: scanned people close their eyes
COMPONENTS, STEP_MM = 400, 0.005
DETECTED_FACES, DETECTED_SEED = 160, 772
LEAST_SEEN = 0.4  # share of faces on which a point must have been found
MOST_SCATTER = 5.0  # mm
WITNESSES, EVERY = 4, 16  # faces of each kind that an asset holds, and of how many vertices one
RMS_OF_MEDIAN = 3**0.5 / 1.538  # of the lengths of Gaussian vectors in space

Places = NDArray[np.float64]


def mixed(one: Prior, other: Prior, share: float, besides: Places) -> Prior:
    """`COMPONENTS` of the Gaussian with the mean and the covariance of a mixture, `share` of which is the `other`.

    To all faces of it, the shapes `besides` (N, V, 3) are added in amounts of a standard normal distribution each.
    """
    mean = (1 - share) * one.mean + share * other.mean
    between = np.sqrt(share * (1 - share)) * (other.mean - one.mean)
    bases = [np.sqrt(weight) * part.basis.transpose(1, 2, 0) for weight, part in ((1 - share, one), (share, other))]
    rows = np.concatenate([*bases, between[None], besides]).reshape(-1, mean.size)
    variances, axes = principal_axes(rows * np.sqrt(len(rows) - 1), COMPONENTS)
    basis = (np.sqrt(variances)[:, None] * axes).reshape(-1, *mean.shape)
    return Prior(mean, np.ascontiguousarray(basis.transpose(2, 0, 1), dtype=np.float32))


def prior() -> dict[str, NDArray[np.generic]]:
    """The arrays of face_prior.npz: `mean` (V, 3), `basis` (3, K, V) in steps of `step_mm`.

    Learned from the corpora alone, it would leave plain people a third further off than a model of plain people does;
    as a mixture it is good at both (docs/registration.md has the figures that the share was chosen by).
    """
    corpora = learn(corpus_people(NEUTRAL, EXPRESSIVE, SEED), COMPONENTS)
    plain = learn(plain_people(PLAIN, "registration prior", ACTIVE), PLAIN_COMPONENTS)
    eyes = [face_basis().action_names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]
    learned = mixed(corpora, plain, PLAIN_SHARE, CLOSED * face_basis().actions[eyes].astype(np.float64))
    basis = np.rint(learned.basis / STEP_MM).astype(np.int16)
    return {"mean": learned.mean.astype(np.float32), "basis": basis, "step_mm": np.array(STEP_MM)}


def places(faces: NDArray[np.float32], template: Mesh) -> Places:
    """Where each face (N, V, 3) shows each detector point, on the template: (N, 478, 3), NaN where it does not."""
    found = np.full((len(faces), POINTS, 3), np.nan)
    with Detector() as detector:
        for row, vertices in enumerate(faces):
            mesh = template.with_vertices(vertices)
            frame = Frame(np.eye(3), mesh.vertices.mean(axis=0), HALF_WIDTH)
            detection = detect(Scene(mesh), detector, frame)
            seen = np.flatnonzero(detection.found)
            if len(seen):
                nearest = closest_points(detection.points[seen], mesh)
                corners = template.vertices[template.triangles[nearest.triangle]]
                found[row, seen] = np.einsum("nk,nkc->nc", nearest.barycentric, corners)
    return found


def detector_points() -> dict[str, NDArray[np.generic]]:
    """The arrays of detector_points.npz: for each point its place on the template and its scatter, in mm."""
    found = places(corpus_people(DETECTED_FACES // 2, DETECTED_FACES // 2, DETECTED_SEED), face_template())
    points, scatter = np.zeros((POINTS, 3)), np.full(POINTS, np.inf)
    for number in range(POINTS):
        seen = found[np.isfinite(found[:, number, 0]), number]
        if len(seen) >= LEAST_SEEN * DETECTED_FACES:
            points[number] = np.median(seen, axis=0)
            scatter[number] = RMS_OF_MEDIAN * np.median(np.linalg.norm(seen - points[number], axis=1))
    scatter[scatter > MOST_SCATTER] = np.inf
    return {"points": points.astype(np.float32), "scatter_mm": scatter.astype(np.float32)}


def witness() -> NDArray[np.float32]:
    """Some vertices of some faces of the corpora, (3 WITNESSES, vertices, 3) in mm: those of an asset are what these
    were when it was made."""
    corpora = corpus_people(WITNESSES, WITNESSES, SEED)
    plain = plain_people(WITNESSES, "registration prior", ACTIVE)
    return np.ascontiguousarray(np.concatenate([corpora, plain])[:, ::EVERY])


def fingerprint(arrays: dict[str, NDArray[np.generic]]) -> str:
    """Of the named numbers in this file, and of what an asset holds."""
    digest = hashlib.sha256()
    for name, value in sorted(vars(sys.modules[__name__]).items()):
        if name.isupper() and isinstance(value, int | float):
            digest.update(f"{name} {value!r}\n".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def main() -> None:
    for name, arrays in (("face_prior", prior()), ("detector_points", detector_points())):
        path = OWN / f"{name}.npz"
        arrays["witness"] = witness()
        np.savez_compressed(str(path), fingerprint=np.array(fingerprint(arrays)), **arrays)
        print(f"{path}: {', '.join(f'{key} {array.shape}' for key, array in arrays.items())}")


if __name__ == "__main__":
    main()
