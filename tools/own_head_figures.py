"""How well shapes are carried over to heads of other triangles: the table of docs/heads.md.

    python tools/own_head_figures.py [--people 4] [--seed 1] [--picture shapes.png]

Each person is one of the corpus, whose shapes are known; what is rigged is the face with 1,500, 3,000 or 4,500
vertices, turned, as a file of its own, and the detector finds its landmarks. Printed is, for each shape, the mean error
of the displacement over the face against its mean size, and the worst vertex. The picture shows the last person, both
sides at once.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.spatial.transform import Rotation

from meshgan.data.corpora.basis import face_basis, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.population import draw_people
from meshgan.geometry.decimate import decimate
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.model.rig import ARKIT, rigger
from meshgan.registration.own_head import rig_head
from meshgan.view.figures import contact_sheet

COUNTS = (1500, 3000, 4500)
SHOWN = ("at rest", "eyeBlink", "browInnerUp", "jawOpen", "mouthFunnel", "mouthPucker", "mouthSmile", "cheekPuff")


def main() -> None:
    """Rig, compare, and print the table."""
    parser = argparse.ArgumentParser(description="Errors of the shapes on heads of other triangles.")
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    basis, template = face_basis(), face_template()
    drawn = draw_people(basis, Draws(asked.seed, "own-head", np.arange(asked.people)))
    faces = basis.neutral(drawn.phenotype, drawn.features).vertices.astype(np.float64)
    turn = Rotation.from_euler("xyz", [10, 25, 5], degrees=True)
    errors, sizes, worst = (np.zeros((asked.people, len(ARKIT))) for _ in range(3))
    with TemporaryDirectory() as folder:
        for row, face in enumerate(faces):
            few = decimate(template.with_vertices(face), COUNTS[row % len(COUNTS)])
            path = Path(folder) / "own.ply"
            write_mesh(path, Mesh(turn.apply(face[few.kept]), few.mesh.triangles))
            found, truth = rig_head(path), rigger().targets(face, "arkit")
            for column, name in enumerate(ARKIT):
                wanted = turn.apply(truth[name][few.kept].astype(np.float64))
                off = np.linalg.norm(found.targets[name] - wanted, axis=1)
                errors[row, column], worst[row, column] = off.mean(), off.max()
                sizes[row, column] = np.linalg.norm(wanted, axis=1).mean()
    if asked.picture:
        sides = [[name for name in ARKIT if name.removesuffix("Left").removesuffix("Right") == what] for what in SHOWN]
        shown = [found.vertices + sum(found.targets[name] for name in both) for both in sides]
        upright = np.stack([turn.inv().apply(vertices) for vertices in shown])
        contact_sheet(upright, few.mesh.triangles, asked.picture, columns=4, size=300, captions=SHOWN)
    moving = sizes.mean(axis=0) > 0
    shares = errors.mean(axis=0) / np.maximum(sizes.mean(axis=0), 1e-12)
    under = [int(np.count_nonzero(e[moving] <= 0.2 * s[moving])) for e, s in zip(errors, sizes, strict=True)]
    print(f"within 20 %, of {np.count_nonzero(moving)} shapes that move anything: {under}\n")
    print("| shape | moves, mm | error, mm | error : motion | worst vertex, mm |\n|---|---:|---:|---:|---:|")
    for column in np.argsort(-np.where(moving, shares, -1)):
        if moving[column]:
            figures = f"{sizes[:, column].mean():.2f} | {errors[:, column].mean():.3f} | {shares[column]:.0%}"
            print(f"| `{ARKIT[column]}` | {figures} | {worst[:, column].max():.1f} |")


if __name__ == "__main__":
    main()
