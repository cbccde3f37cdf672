"""What one visitor does in the studio, without a browser: every control of the page is one method here. And what a
face is made of, its history, and its seed: a line of text that brings the same face back.

    id=48213 exp=7051 age=12 happiness=0.5

`id` and `exp` are the seeds of random codes, `start` (the mean face, the neutral expression), or `~` and the code
itself where it came from a mesh or a blend, with a dot and the number of its details of chance where it has them.
The rest are the values of sliders that were moved.
"""

import base64
import binascii
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from meshgan.arrays import Codes, Faces
from meshgan.errors import UsageError
from meshgan.model.compose import compose
from meshgan.model.latent import interpolate, nearer
from meshgan.model.samplers import NUMBERS, face_numbers
from meshgan.studio.sliders import Place, StudioModel
from meshgan.view.figures import factor_label

SEEDS = 100_000  # random faces have seeds below this
LONGEST = 8000  # characters of a seed
FARTHEST = 1000.0  # of a code's numbers
IDENTITY, EXPRESSION, START = "id", "exp", "start"
REMEMBERED = 200  # faces that are remembered
PAUSE = 0.7  # seconds: a slider that stands still for longer has been let go

Half = Literal["identity", "expression"]

SIMILAR = 8  # similar faces that are offered
NEARNESS = 0.35  # of a similar face: the share of chance in its code (0 is the same face, 1 any face)
GRID = (-0.5, 0.0, 0.5, 1.0, 1.5)  # f_ID and f_EXP of the grid (Fig. 7 of the paper)


@dataclass(frozen=True, eq=False)
class Part:
    """The identity or the expression of a face: a base code (D,), where it is from, and the sliders moved since.

    Its details of chance follow from `number`; without one they are the mean of all that its code can have.
    """

    source: str
    base: Codes
    number: int | None = None
    amounts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def at_start(cls, model: StudioModel) -> "Part":
        """The mean face, or the neutral expression."""
        return cls(START, model.start)

    @classmethod
    def random(cls, model: StudioModel, seed: int) -> "Part":
        """The code and the number that `meshgan sample MODEL --seed SEED --count 1` draws."""
        return cls(str(seed), model.model.codes(1, seed)[0], int(face_numbers(1, seed)[0]))

    @classmethod
    def of_code(cls, code: Codes, number: int | None = None) -> "Part":
        """A given code, rounded to half precision (well below 0.01 mm) so that its seed is short and exact."""
        half = code.astype("<f2")
        text = f"~{base64.urlsafe_b64encode(half.tobytes()).decode()}"
        return cls(text if number is None else f"{text}.{number}", half.astype(np.float32), number)

    @classmethod
    def of_source(cls, model: StudioModel, source: str) -> "Part":
        """The inverse of `source`. Raises `UsageError` if it means nothing to this model."""
        if source == START:
            return cls.at_start(model)
        if source.isascii() and source.isdigit() and len(source) <= 18:
            return cls.random(model, int(source))
        text, _, number = source.partition(".")
        if number and not (number.isascii() and number.isdigit() and len(number) <= 19 and int(number) < NUMBERS):
            raise UsageError(f"'{number[:20]}' is no number of a face.")
        return cls.of_code(_code(text, model.model.code_size), int(number) if number else None)

    def moved(self, key: str, value: float) -> "Part":
        """The same with a slider at `value`; at 0 it is as if it had never been moved."""
        amounts = {name: amount for name, amount in self.amounts.items() if name != key}
        return replace(self, amounts=amounts | ({key: value} if value else {}))

    def code(self, model: StudioModel) -> Codes:
        """The code (D,): the base and all sliders."""
        moves = [np.float32(value) * model.sliders[key].vector for key, value in self.amounts.items()]
        return np.sum([self.base, *moves], axis=0, dtype=np.float32)


def faces_of(model: StudioModel, parts: Sequence[Part]) -> Faces:
    """The faces (B, V, 3) in mm of identities or of expressions, with details of chance where they have a number."""
    codes, numbers = np.stack([part.code(model) for part in parts]), [part.number for part in parts]
    faces = np.empty((len(parts), *model.template.vertices.shape), np.float32)
    for rows in ([i for i, number in enumerate(numbers) if (number is None) == plain] for plain in (True, False)):
        if rows:
            known = [number for number in (numbers[i] for i in rows) if number is not None]
            faces[rows] = model.decode(codes[rows], known or None)
    return faces


@dataclass(frozen=True, eq=False)
class State:
    """One face: its identity and, where there is an expression model, its expression."""

    identity: Part
    expression: Part | None

    @property
    def seed(self) -> str:
        """The line of text that `read_seed` reads."""
        parts = {IDENTITY: self.identity} | ({EXPRESSION: self.expression} if self.expression else {})
        sources = [f"{name}={part.source}" for name, part in parts.items()]
        return " ".join(
            sources + [f"{key}={value:g}" for part in parts.values() for key, value in part.amounts.items()]
        )


class History:
    """The faces that a visitor has had, and where among them they are now."""

    def __init__(self, first: State, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._past: deque[State] = deque(maxlen=REMEMBERED)
        self._future: list[State] = []
        self.current = first
        self._control, self._last = "", clock()

    def push(self, state: State, control: str = "") -> None:
        """Go on with `state`. The changes of one slider, in one movement, are one step."""
        now = self._clock()
        if not control or control != self._control or now - self._last > PAUSE:
            self._past.append(self.current)
        self._future.clear()
        self.current, self._control, self._last = state, control, now

    def undo(self) -> bool:
        """One step back, if there is one."""
        if not self._past:
            return False
        self._future.append(self.current)
        self.current, self._control = self._past.pop(), ""
        return True

    def redo(self) -> bool:
        """One step forward, if one was taken back."""
        if not self._future:
            return False
        self._past.append(self.current)
        self.current, self._control = self._future.pop(), ""
        return True


def read_seed(text: str, identity: StudioModel, expression: StudioModel | None) -> State:
    """The face of a seed. Raises `UsageError` with a sentence if it is none of these models'."""
    words = dict(_words(text))
    if IDENTITY not in words:
        raise UsageError("a seed starts with id=, as in: id=48213 exp=7051.")
    person = Part.of_source(identity, words.pop(IDENTITY))
    source = words.pop(EXPRESSION, START)
    feeling = Part.of_source(expression, source) if expression else None
    for key, value in words.items():
        if key in identity.sliders:
            person = person.moved(key, identity.sliders[key].clipped(_number(key, value)))
        elif expression and feeling and key in expression.sliders:
            feeling = feeling.moved(key, expression.sliders[key].clipped(_number(key, value)))
        else:
            raise UsageError(f"the seed names '{key[:40]}', which is no slider of these models.")
    return State(person, feeling)


def _words(text: str) -> list[tuple[str, str]]:
    if len(text) > LONGEST:
        raise UsageError("this text is too long to be a seed.")
    pairs = [word.partition("=") for word in text.split()]
    if not all(sign and value for _, sign, value in pairs):
        raise UsageError("a seed is made of words like id=48213, with blanks between them.")
    return [(name, value) for name, _, value in pairs]


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UsageError(f"the seed says '{key}={value[:20]}', which is no number.") from error


def _code(source: str, size: int) -> Codes:
    """A code (D,) from `~` and Base64. Raises `UsageError` if it is damaged or of another model."""
    try:
        if not source.startswith("~"):
            raise ValueError
        code = np.frombuffer(base64.b64decode(source[1:], altchars=b"-_", validate=True), "<f2").astype(np.float32)
    except (ValueError, binascii.Error) as error:
        raise UsageError(f"'{source[:20]}' is no seed: it should be a number, or start with ~.") from error
    if code.shape != (size,) or not (np.abs(code) <= FARTHEST).all():
        raise UsageError("this seed holds the code of another model, or was not copied as a whole.")
    return code


@dataclass(frozen=True, eq=False)
class Gallery:
    """Faces to choose from, in reading order, with a title above each column and beside each row."""

    states: Sequence[State]
    above: Sequence[str]
    beside: Sequence[str]


@dataclass(frozen=True)
class Measure:
    """How far the face is from the mean face, in mm on average over vertices, and where its codes lie."""

    distance_mm: float
    identity: Place
    expression: Place


class Session:
    """The face of one visitor, and what they need to change it. Not thread-safe: hold a lock around each call."""

    def __init__(
        self,
        identity: StudioModel,
        expression: StudioModel | None,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity, self.expression = identity, expression
        self.locked: set[Half] = set()
        self.gallery: Gallery | None = None
        self.target: Faces | None = None  # (V, 3), the visitor's own mesh, NaN where it shows nothing
        self._draws = np.random.default_rng(seed)
        self._shown: tuple[State, Faces] | None = None
        self._halves: dict[StudioModel, tuple[Part, Faces]] = {}  # the last of each model
        self.b = self._random(self._start())
        self.a = replace(self._random(self._start()), expression=self._start().expression)
        self.history = History(self.a, clock)

    @property
    def state(self) -> State:
        """The present face."""
        return self.history.current

    @property
    def face(self) -> Faces:
        """The vertices (V, 3) of the present face in mm."""
        if self._shown is None or self._shown[0] is not self.state:
            self._shown = (self.state, self._made(self.state))
        return self._shown[1]

    def _made(self, state: State) -> Faces:
        """The vertices (V, 3) of a face like the last one, of which a slider moves one half: the other is kept."""
        person = self._half(self.identity, state.identity)
        if self.expression is None:
            return person
        feeling = self._half(self.expression, state.expression or Part.at_start(self.expression))
        return compose(person[None], feeling[None], self.expression.still)[0]

    def _half(self, model: StudioModel, part: Part) -> Faces:
        known = self._halves.get(model)
        if known is None or known[0] is not part:
            self._halves[model] = known = (part, faces_of(model, [part])[0])
        return known[1]

    def faces(self, states: Sequence[State]) -> Faces:
        """The vertices (N, V, 3) in mm of any faces: identity + size · expression, as `model.compose` does it."""
        people = faces_of(self.identity, [state.identity for state in states])
        if self.expression is None:
            return people
        feelings = [state.expression or Part.at_start(self.expression) for state in states]
        return compose(people, faces_of(self.expression, feelings), self.expression.still)

    def shift(self) -> Faces:
        """What the present expression does to the neutral template (V, 3), in mm. Zero without one."""
        if self.expression is None or self.state.expression is None:
            return np.zeros_like(self.identity.mean_face)
        return faces_of(self.expression, [self.state.expression])[0] - self.expression.still

    def measure(self) -> Measure:
        """Distance to the mean and place in the training range of the present face."""
        away = self.face - self.identity.mean_face
        distance = float(np.sqrt(np.einsum("vc,vc->v", away, away)).mean())
        own = self.state.expression
        feeling = self.expression.range.place(own.code(self.expression)) if self.expression and own else "inside"
        return Measure(distance, self.identity.range.place(self.state.identity.code(self.identity)), feeling)

    # What the buttons do

    def random(self, *halves: Half) -> None:
        """A random identity, expression or both (none named: both), but for what is locked."""
        self._replace(self._random(self.state), halves)

    def start_over(self, half: Half) -> None:
        """The mean identity, or the neutral expression."""
        self._replace(self._start(), (half,))

    def slide(self, key: str, value: float) -> None:
        """Move the slider `key`. Raises `UsageError` if there is none."""
        state = self.state
        if key in self.identity.sliders:
            amount = self.identity.sliders[key].clipped(value)
            self.history.push(replace(state, identity=state.identity.moved(key, amount)), key)
        elif self.expression and state.expression and key in self.expression.sliders:
            amount = self.expression.sliders[key].clipped(value)
            self.history.push(replace(state, expression=state.expression.moved(key, amount)), key)
        else:
            raise UsageError(f"there is no slider '{key}'.")

    def amount(self, key: str) -> float:
        """Where the slider `key` stands."""
        parts = (self.state.identity, self.state.expression)
        return next((part.amounts[key] for part in parts if part and key in part.amounts), 0.0)

    def reset_sliders(self, half: Half) -> None:
        """All sliders of one half back to zero."""
        part = getattr(self.state, half)
        self.history.push(replace(self.state, **{half: replace(part, amounts={})}))

    def use_seed(self, text: str) -> None:
        """The face of a seed, locked or not. Raises `UsageError` if it is none."""
        self.history.push(read_seed(text, self.identity, self.expression))

    def keep(self, slot: Literal["A", "B"]) -> None:
        """Keep the present face as A or B."""
        setattr(self, slot.lower(), self.state)

    def blend(self, factor: float) -> None:
        """The face (1 − f) A + f B by Eq. 3, but for what is locked."""
        factor = round(float(np.clip(factor, GRID[0], GRID[-1])), 2) if np.isfinite(factor) else 0.0
        self._replace(self._between(factor, factor), control="blend")

    def offer_similar(self, columns: int = 4) -> None:
        """Offer faces like the present one: other identities, or other expressions if the identity is locked."""
        half: Half = "expression" if "identity" in self.locked and self.expression else "identity"
        others = [replace(self.state, **{half: self._near(half)}) for _ in range(SIMILAR - 1)]
        self.gallery = Gallery([self.state, *others], ["my face"] + [""] * (columns - 1), [""] * (SIMILAR // columns))

    def offer_grid(self) -> None:
        """Offer the faces between and beyond A and B: f_ID down, f_EXP across."""
        across = GRID if self.expression else (0.0,)
        states = [self._between(row, column) for row in GRID for column in across]
        above = [factor_label("exp", f) for f in across] if self.expression else [""]
        self.gallery = Gallery(states, above, [factor_label("id", f) for f in GRID])

    def pick(self, number: int) -> None:
        """Go on with one of the faces that are offered."""
        if self.gallery is not None and 0 <= number < len(self.gallery.states):
            self.history.push(self.gallery.states[number])
        self.gallery = None

    def adopt(self, target: Faces, identity: Codes, expression: Codes | None) -> None:
        """Go on with the fit to the visitor's own mesh `target` (V, 3)."""
        feeling = self._start().expression if expression is None else Part.of_code(expression)
        self.target = target
        self.history.push(State(Part.of_code(identity), feeling))

    # How faces are made

    def _replace(self, other: State, halves: Sequence[Half] = (), control: str = "") -> None:
        """Go on with those halves of `other` that are named (none: both) and not locked."""
        wanted = [half for half in halves or ("identity", "expression") if half not in self.locked]
        self.history.push(replace(self.state, **{half: getattr(other, half) for half in wanted}), control)

    def _start(self) -> State:
        return State(Part.at_start(self.identity), Part.at_start(self.expression) if self.expression else None)

    def _random(self, state: State) -> State:
        first, second = (int(seed) for seed in self._draws.integers(SEEDS, size=2))
        feeling = Part.random(self.expression, second) if self.expression else None
        return replace(state, identity=Part.random(self.identity, first), expression=feeling)

    def _near(self, half: Half) -> Part:
        """A part whose code is drawn near the present one, so that its spread remains that of all codes."""
        model, part = getattr(self, half), getattr(self.state, half)
        middle = model.range.mean
        chance = model.model.codes(1, int(self._draws.integers(SEEDS)))[0] - middle
        code = middle + np.sqrt(1 - NEARNESS**2) * (part.code(model) - middle) + NEARNESS * chance
        return Part.of_code(code, part.number)

    def _between(self, identity: float, expression: float) -> State:
        """Eq. 3 between A and B, with a factor for each half."""
        person = _line(self.identity, self.a.identity, self.b.identity, identity)
        if self.expression is None or self.a.expression is None or self.b.expression is None:
            return State(person, None)
        return State(person, _line(self.expression, self.a.expression, self.b.expression, expression))


def _line(model: StudioModel, first: Part, second: Part, factor: float) -> Part:
    """One point of the line between two parts; at its ends, the parts themselves."""
    if factor in (0.0, 1.0):
        return second if factor else first
    code = interpolate(first.code(model), second.code(model), [factor])[0]
    return Part.of_code(code, nearer(first.number, second.number, factor))
