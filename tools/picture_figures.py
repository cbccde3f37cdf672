"""FIDs and KID of fewer samples than the tables of docs/results.md have: without a card, an image takes a quarter of a
second.

    python tools/picture_figures.py SET MODEL … [--samples 500] [--part validation]

MODEL is a model or run folder; of a MeshGAN, the same without its convolutions comes with it. Training faces stand in
for samples in the last row. FIDs of few samples are too large, for all rows alike; KID is not. Prints the rows as a
table, each as soon as it is there, with what else is measured of so many samples. *Amount* is how much detail differs
from face to face: the standard deviation of the logarithm of a face's energies beyond 64 components, mean over bands;
*ratios* are means of these energies over real faces', band by band.
"""

import argparse
from pathlib import Path

import numpy as np

from meshgan.arrays import Faces
from meshgan.data.faceset import FaceSet
from meshgan.evaluation.yardstick import Source, Yardstick, beyond
from meshgan.model.face_model import FaceModel
from meshgan.model.load import load_model

SHOWN = {  # metrics and their digits
    "fid": 1, "fid256": 1, "kid": 4, "detail": 3, "specificity_mm": 3, "coverage": 3, "validity": 3
}  # fmt: skip
BLOCK = 100  # faces measured at a time
SILENT = 1e-12  # mm²: what is less counts as this


def show(name: str, vertices: Faces, source: Source, yardstick: Yardstick) -> None:
    """Print the row of some faces (N, V, 3)."""
    row = yardstick.measure(np.array_split(vertices, -(-len(vertices) // BLOCK)), source, 0)
    scores = {key: row.score(key) for key in SHOWN}
    cells = [f"{score.value:.{SHOWN[key]}f}" if score else "–" for key, score in scores.items()]
    energies = yardstick.bands.energies(beyond(yardstick.space, vertices))
    cells.append(f"{np.log(np.maximum(energies, SILENT)).std(axis=0).mean():.2f}")
    cells.append(" ".join(f"{ratio:.2f}" for ratio in energies.mean(axis=0) / yardstick.energies.mean(axis=0)))
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure the models that were named."""
    parser = argparse.ArgumentParser(description="FIDs and KID of some samples.")
    parser.add_argument("set", type=Path)
    parser.add_argument("model", nargs="+")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--part", choices=("test", "validation"), default="test", help="that they are measured against")
    options = parser.parse_args()
    faces = FaceSet.open(options.set)
    yardstick = Yardstick.of(faces, "inception", options.part)
    print(f"| model | {' | '.join(SHOWN)} | amount | ratios |\n|{'---|' * (len(SHOWN) + 3)}", flush=True)
    for name in options.model:
        model = load_model(name)
        show(name, model.sample(options.samples, 0), model.card.sampler, yardstick)
        network = model.card.network
        if isinstance(model, FaceModel) and network is not None and network.detail:
            off = model.without_convolutions()
            show(f"{name}, convolutions off", off.sample(options.samples, 0), off.card.sampler, yardstick)
    rows = np.random.default_rng(0).permutation(faces.split.train)[: options.samples]
    show("real faces", np.asarray(faces.vertices[rows]), "none", yardstick)


if __name__ == "__main__":
    main()
