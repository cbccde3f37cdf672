"""The default corpus of expressions: posed and spontaneous faces of people over several sessions.

Rows come in this order: the neutral face of each session of each subject, the posed faces, the spontaneous ones.
Everything about row r follows from the plan and r, so the pure deformation of a row, on the template, without
identity and noise, can be made again at any time (`ExpressionPlan.pure`): the ground truth of decoupling.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from meshgan.arrays import Floats, Integers, Reals, Singles
from meshgan.data.corpora.anny import LICENCE, SOURCE
from meshgan.data.corpora.basis import FaceBasis, Neutral, Phenotype, average_adult, face_template
from meshgan.data.corpora.detail import Traits, add_trait_labels, detail
from meshgan.data.corpora.draws import Draws, RegistrationNoise
from meshgan.data.corpora.folds import Folds
from meshgan.data.corpora.motion import Manner, Wrinkles, contacts, draw_manner, gauges, motion
from meshgan.data.corpora.performance import NEUTRAL, POSED, SPONTANEOUS, Style, draw_actions, draw_style, draw_units
from meshgan.data.corpora.population import People, draw_people
from meshgan.data.corpora.recipes import EXPRESSIONS
from meshgan.data.faceset import Card, FaceSet, blocks, create_faceset
from meshgan.errors import UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.mesh import Mesh

CORPUS = "anny-expressions"
BLOCK = 64
AT_A_TIME = 2  # blocks that are made at a time
PREFIXES = {"model": "E", "classifier": "C"}  # the parts of the corpus have no subject in common
SESSIONS = 4  # at most: not everybody comes back
SESSION_SHARES = (0.15, 0.3, 0.55)  # of subjects with 2, 3 and 4 sessions
AGE_SHARES = (0.03, 0.08, 0.55, 0.25, 0.09)
KINDS = ("neutral", "posed", "spontaneous")
WEAK_LABEL = 0.15  # of spontaneous faces are labelled by their film, not by what they show
SESSION_WEIGHT, SESSION_FEATURE = 0.02, 0.012  # how neutral faces change between sessions
MANNER = (0.55, 0.45, 0.6)  # how people's muscles differ: in strength over the skin, in direction (radians), on the way
TAKEN = (0.2, 0.16, 0.6)  # and how one person's do from take to take
STILL = 0.12  # vertices that no action moves further than this share of the largest motion align a face


@dataclass(frozen=True, eq=False)
class Takes:
    """B faces to make: who (index of the subject), in which session, of which kind (index into KINDS), the label
    (index into EXPRESSIONS, -1 for neutral), the intensity and the facial actions (B, A)."""

    who: Integers
    session: Integers
    kind: Integers
    label: Integers
    intensity: Floats
    actions: Floats


@dataclass(frozen=True)
class ExpressionPlan:
    """What an expression corpus consists of; nothing is computed before it is asked for."""

    subjects: int = 180
    posed: int = 6651
    spontaneous: int = 7567
    seed: int = 0
    noise_mm: float = 0.1
    part: str = "model"
    plain: bool = False

    def __post_init__(self) -> None:
        if self.subjects < 1 or min(self.posed, self.spontaneous, self.noise_mm) < 0:
            raise UsageError("an expression corpus needs at least one subject, and no number below zero.")
        if self.part not in PREFIXES:
            raise UsageError(f"'{self.part}' is no part of the corpus; choose {' or '.join(PREFIXES)}.")

    @classmethod
    def of(cls, faces: FaceSet) -> "ExpressionPlan":
        """The plan by which a set of faces was made."""
        parameters = dict(faces.card.parameters)
        if parameters.pop("corpus", None) != CORPUS:
            raise UsageError(f"{faces.path} was not made by `meshgan data anny-expressions`.")
        return cls(**parameters)

    @cached_property
    def basis(self) -> FaceBasis:
        return FaceBasis.read()

    @cached_property
    def template(self) -> Mesh:
        return face_template()

    @cached_property
    def sessions(self) -> Integers:
        """How many sessions each subject has (S,)."""
        return 2 + self._draws("sessions", np.arange(self.subjects)).choice(SESSION_SHARES)

    @cached_property
    def people(self) -> People:
        return draw_people(self.basis, self._draws("people", np.arange(self.subjects)), AGE_SHARES, self.plain)

    @cached_property
    def style(self) -> Style:
        return draw_style(self._draws("style", np.arange(self.subjects)))

    @cached_property
    def traits(self) -> Traits:
        """The subjects' detail and folds."""
        return detail().draw(self.people, self._draws("traits", np.arange(self.subjects)))

    @cached_property
    def manner(self) -> Manner:
        """How the subjects' muscles work."""
        return draw_manner(self._draws("manner", np.arange(self.subjects)), self.basis.action_names, MANNER)

    @cached_property
    def wrinkles(self) -> Wrinkles:
        """The folds of the subjects, ready to deepen."""
        return Wrinkles(gauges(), self.traits.folds)

    @property
    def neutrals(self) -> int:
        """The number of neutral faces, one a session."""
        return int(self.sessions.sum())

    def __len__(self) -> int:
        return self.neutrals + self.posed + self.spontaneous

    def takes(self, rows: Integers) -> Takes:
        """Who does what in these rows (B,)."""
        starts = np.array([0, self.neutrals, self.neutrals + self.posed])
        kind = np.searchsorted(starts, rows, side="right") - 1
        place = rows - starts[kind]
        draws = self._draws("takes", rows)
        drawn = draws.choice([1.0] * len(EXPRESSIONS))
        expression = np.where(kind == POSED, place % len(EXPRESSIONS), drawn)
        who, session = self._sittings(draws, kind, place)
        units, intensity = draw_units(draws, self.style, who, expression, kind, self.plain)
        film = draws.choice([1.0] * len(EXPRESSIONS))
        weak = (kind == SPONTANEOUS) & (draws.uniform(1)[:, 0] < WEAK_LABEL)
        label = np.where(kind == NEUTRAL, -1, np.where(weak, film, expression))
        actions = draw_actions(draws, self.style, who, units, self.basis.action_names)
        return Takes(who, session, kind, label, intensity, actions)

    def _sittings(self, draws: Draws, kind: Integers, place: Integers) -> tuple[Integers, Integers]:
        """Subject and session of the `place`-th face of its kind: neutral faces take all sessions in turn."""
        held = np.arange(SESSIONS) < self.sessions[:, None]
        subject, session = np.nonzero(held)
        turn = np.minimum(place, self.neutrals - 1)
        who = np.where(kind == NEUTRAL, subject[turn], place // len(EXPRESSIONS) % self.subjects)
        drawn = (draws.uniform(1)[:, 0] * self.sessions[who]).astype(np.int64)
        return who, np.where(kind == NEUTRAL, session[turn], drawn)

    def neutral(self, who: Integers, session: Integers) -> Neutral:
        """The neutral faces, without noise, of subjects (B,) in sessions (B,)."""
        sitting = who * SESSIONS + session
        block, place = np.divmod(sitting, BLOCK)
        made = {int(number): self._block_of_neutrals(int(number)) for number in np.unique(block)}
        vertices = np.stack([made[int(b)].vertices[p] for b, p in zip(block, place, strict=True)])
        return Neutral(vertices, np.stack([made[int(b)].joints[p] for b, p in zip(block, place, strict=True)]))

    @cached_property
    def _neutrals(self) -> dict[int, Neutral]:
        return {}

    def _block_of_neutrals(self, number: int) -> Neutral:
        """The neutral faces of `BLOCK` sittings, made once: weight and features change a little between sessions."""
        if number not in self._neutrals:
            self._neutrals[number] = self._sit(np.arange(number * BLOCK, (number + 1) * BLOCK))
        return self._neutrals[number]

    def _sit(self, sittings: Integers) -> Neutral:
        draws = self._draws("session", sittings)
        who = np.minimum(sittings // SESSIONS, self.subjects - 1)
        person, features = self.people.phenotype, self.people.features[who]
        weight = np.clip(person.weight[who] + SESSION_WEIGHT * draws.normal(1)[:, 0], 0, 1)
        features = features + SESSION_FEATURE * draws.normal(features.shape[1]) * (features != 0)
        age, female, muscle = person.age[who], person.female[who], person.muscle[who]
        plain = self.basis.neutral(Phenotype(age, female, muscle, weight, person.ancestry[who]), features)
        return plain if self.plain else contacts().settled(detail().applied(plain, self.traits.of(who)))

    def faces(self, rows: Integers, takes: Takes) -> Singles:
        """The registered faces (B, V, 3) of these rows: identity, expression and noise, rigidly aligned."""
        return self._faces(rows, takes)[0]

    def _faces(self, rows: Integers, takes: Takes) -> tuple[Singles, Folds | None]:
        """The faces, and their folds as deep as they are in them."""
        neutral = self.neutral(takes.who, takes.session)
        size = _spread(neutral.vertices) / _spread(self.template.vertices[None])  # small faces move less
        faces, folds = self._perform(neutral, rows, takes, size)
        aligned = rigid(faces[:, self.still], self.template.vertices[self.still])
        noise = self._noise.draw(self._draws("noise", rows), self.noise_mm)
        return aligned(faces).astype(np.float32) + noise, folds

    def _perform(self, neutral: Neutral, rows: Integers, takes: Takes, size: Floats) -> tuple[Singles, Folds | None]:
        if self.plain:
            return self.basis.perform(neutral, takes.actions, size), None
        today = draw_manner(self._draws("manner-takes", rows), self.basis.action_names, TAKEN)
        manner = self.manner.of(takes.who) + today
        wrinkles = self.wrinkles.of(takes.who)
        faces, depths = motion().perform(neutral, takes.actions, manner, wrinkles, size)
        return faces, replace(wrinkles.folds, depth=depths.astype(np.float64))

    def pure(self, rows: Integers) -> Singles:
        """The template (B, V, 3) doing what is done in these rows (B,), with the manner and the wrinkles of who does
        it: no identity, no noise."""
        adult = self.basis.neutral(average_adult(), np.zeros((1, len(self.basis.feature_names))))
        shift = self.template.vertices.astype(np.float32) - adult.vertices[0]
        everyone = np.zeros(len(rows), dtype=np.int64)
        template = Neutral((adult.vertices + shift)[everyone], (adult.joints + shift.mean(axis=0))[everyone])
        if not self.plain:
            settled = contacts().settled(template)
            moved, _ = self._perform(settled, rows, self.takes(rows), np.ones(len(rows)))
            return template.vertices + moved - settled.vertices
        return self._perform(template, rows, self.takes(rows), np.ones(len(rows)))[0]

    @cached_property
    def still(self) -> Integers:
        """Vertices that expressions hardly move. They align the faces: a dropped jaw shall not tilt the head."""
        reach = np.linalg.norm(self.basis.actions, axis=2).max(axis=0)
        return np.flatnonzero((reach < STILL * reach.max()) & (self.basis.jaw_weights < 0.01))

    @cached_property
    def _noise(self) -> RegistrationNoise:
        return RegistrationNoise(self.template.vertices, self.seed)

    @cached_property
    def _named(self) -> list[dict[str, object]]:
        return self.people.labels([f"{PREFIXES[self.part]}{who:04d}" for who in range(self.subjects)])

    def _draws(self, name: str, items: Integers) -> Draws:
        return Draws(self.seed, f"{self.part}-{name}", items)

    def made(self, start: int) -> tuple[Singles, list[dict[str, object]]]:
        """The faces (BLOCK, V, 3) of the rows from `start` on, and their labels.

        They are always as many, since rounding depends on the number.
        """
        rows = np.arange(start, start + BLOCK)
        takes = self.takes(rows)
        faces, folds = self._faces(rows, takes)
        labels = self.labels(rows, takes)
        if folds is not None:
            add_trait_labels(labels, folds, faces)
        return faces, labels

    def labels(self, rows: Integers, takes: Takes) -> list[dict[str, object]]:
        """One label row a face: who, when and what, as the plan knows it without making the face."""
        people = self._named
        columns = (rows, takes.who, takes.session, takes.label, takes.intensity, takes.kind)
        return [
            {
                "subject": people[who]["subject"],
                "session": int(session) + 1,
                "expression": "neutral" if label < 0 else EXPRESSIONS[label],
                "intensity": f"{intensity:.3f}",
                "kind": KINDS[kind],
                "row": int(row),
            }
            for row, who, session, label, intensity, kind in zip(*columns, strict=True)
        ]


def make_expressions(out: Path, plan: ExpressionPlan) -> None:
    """Write the FaceSet of a plan: neutral, posed and spontaneous faces in millimetres.

    Labels: subject, session, expression, intensity (0 to 1), kind, and row, the number that the plan knows a face by;
    and, unless the corpus is plain, the depths of folds in mm as they are in this face, the number of moles, and the
    face's asymmetry in mm, expression and noise included.
    """
    parameters = {"corpus": CORPUS, **asdict(plan)}
    card = Card(name=CORPUS, source=SOURCE, licence=LICENCE, synthetic=True, parameters=parameters)
    plan.neutral(*np.divmod(np.arange(plan.subjects * SESSIONS), SESSIONS))  # before threads share them
    with (
        create_faceset(out, plan.template, len(plan), card) as writer,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):
        made = pool.map(plan.made, range(0, len(plan), BLOCK))
        for block, (faces, labels) in zip(blocks(len(plan), "Making faces", BLOCK), made, strict=True):
            kept = block.stop - block.start
            writer.append(faces[:kept], labels[:kept])


def _spread(faces: Reals) -> Floats:
    """Root mean square distance (B,) of a face's vertices from their mean."""
    middle = np.full(faces.shape[1], 1 / faces.shape[1], dtype=faces.dtype) @ faces
    centred = (faces - middle[:, None]).reshape(len(faces), -1)
    return np.sqrt(np.einsum("bi,bi->b", centred, centred, dtype=np.float64) / faces.shape[1])
