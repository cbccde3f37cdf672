"""What a face in the studio is made of, its history, and its seed: a line of text that brings the same face back.

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

import numpy as np

from meshgan.arrays import Codes, Faces
from meshgan.errors import UsageError
from meshgan.model.samplers import NUMBERS, face_numbers
from meshgan.studio.models import StudioModel

SEEDS = 100_000  # random faces have seeds below this
LONGEST = 8000  # characters of a seed
FARTHEST = 1000.0  # of a code's numbers
IDENTITY, EXPRESSION, START = "id", "exp", "start"
REMEMBERED = 200  # faces that are remembered
PAUSE = 0.7  # seconds: a slider that stands still for longer has been let go


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
