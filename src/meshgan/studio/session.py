"""What one visitor does in the studio, without a browser: every control of the page is one method here."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from meshgan.arrays import Codes, Faces
from meshgan.errors import UsageError
from meshgan.model.compose import compose
from meshgan.model.latent import interpolate, nearer
from meshgan.studio.models import Place, StudioModel
from meshgan.studio.state import SEEDS, History, Part, State, faces_of, read_seed
from meshgan.view.figures import factor_label

Half = Literal["identity", "expression"]

SIMILAR = 8  # similar faces that are offered
NEARNESS = 0.35  # of a similar face: the share of chance in its code (0 is the same face, 1 any face)
GRID = (-0.5, 0.0, 0.5, 1.0, 1.5)  # f_ID and f_EXP of the grid (Fig. 7 of the paper)


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
        self.target: Faces | None = None  # (V, 3), the visitor's own mesh
        self._draws = np.random.default_rng(seed)
        self._shown: tuple[State, Faces] | None = None
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
            self._shown = (self.state, self.faces([self.state])[0])
        return self._shown[1]

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
        distance = float(np.linalg.norm(self.face - self.identity.mean_face, axis=1).mean())
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
