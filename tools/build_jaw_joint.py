"""Where the joint of a face's jaw lies, read off its vertices: a ridge regression on people of the corpus.

    python tools/build_jaw_joint.py [--out src/meshgan/data/assets/jaw_joint.npz]

The corpus knows each head's joint (the face basis carries it along); a generated or registered face has vertices
alone. Prints how far off the joint is on people that the regression has not seen.
"""

import argparse
from pathlib import Path

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.data.corpora.basis import FaceBasis, average_adult, face_template
from meshgan.data.corpora.detail import detail
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.motion import contacts
from meshgan.data.corpora.population import draw_people
from meshgan.geometry.align import rigid

ASSET = Path(__file__).parents[1] / "src" / "meshgan" / "data" / "assets" / "jaw_joint.npz"
PEOPLE, UNSEEN = 600, 200
POINTS = 60  # vertices, each the furthest from those before it
RIDGE = 0.1  # mm², against the variance of a coordinate


def people(seed: int, count: int, plain: bool) -> tuple[Floats, Floats]:
    """Faces (count, V, 3) in the template's place, and their joints (count, 3)."""
    who = np.arange(count)
    drawn = draw_people(FaceBasis.read(), Draws(seed, "jaw-people", who), plain=plain)
    neutral = FaceBasis.read().neutral(drawn.phenotype, drawn.features)
    if not plain:
        traits = detail().draw(drawn, Draws(seed, "jaw-traits", who))
        neutral = contacts().settled(detail().applied(neutral, traits))
    placed = rigid(neutral.vertices, face_template().vertices)
    return placed(neutral.vertices), placed(neutral.joints[:, None])[:, 0]


def spread_out(points: Floats, count: int) -> Integers:
    """`count` of the points (V, 3), each the furthest from all before it."""
    chosen, away = [0], np.full(len(points), np.inf)
    while len(chosen) < count:
        away = np.minimum(away, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(away.round(3).argmax()))
    return np.array(sorted(chosen))


def main() -> None:
    """Fit, say how good it is, and write."""
    parser = argparse.ArgumentParser(description="Learn where the joint of a face's jaw lies.")
    parser.add_argument("--out", type=Path, default=ASSET)
    out = parser.parse_args().out
    template, basis = face_template(), FaceBasis.read()
    adult = basis.neutral(average_adult(), np.zeros((1, len(basis.feature_names))))
    at_rest = adult.joints[0] + (template.vertices - adult.vertices[0]).mean(axis=0)
    near = spread_out(template.vertices, POINTS)

    def away(faces: Floats) -> Floats:
        return (faces[:, near] - template.vertices[near]).reshape(len(faces), -1)

    sets = [people(1, PEOPLE, plain=False), people(2, PEOPLE // 2, plain=True)]
    faces, joints = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    system, wanted = away(faces), joints - at_rest  # through the template, whose joint is known
    weights = np.linalg.solve(system.T @ system + RIDGE * len(system) * np.eye(system.shape[1]), system.T @ wanted)
    for plain in (False, True):
        unseen, truth = people(3, UNSEEN, plain)
        error = np.linalg.norm(at_rest + away(unseen) @ weights - truth, axis=1)
        kind = "plain" if plain else "rich"
        print(f"{UNSEEN} unseen people ({kind}): mean {error.mean():.2f} mm, 95 % {np.quantile(error, 0.95):.2f} mm")
    np.savez_compressed(
        out, vertices=near.astype(np.int16), weights=weights.astype(np.float32), at_rest=at_rest.astype(np.float32)
    )


if __name__ == "__main__":
    main()
