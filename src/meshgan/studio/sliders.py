"""A model made ready for the studio: decoded quickly, with sliders, and with the range that it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from meshgan.arrays import Codes, Faces, Floats
from meshgan.data.corpora.recipes import EXPRESSIONS
from meshgan.geometry.mesh import Mesh
from meshgan.model.directions import FILE, Axes, Directions
from meshgan.model.load import Model, check_same_template, load_model
from meshgan.model.model_folder import ModelCard, ModelParts, Origin, find_model
from meshgan.model.pca import PcaModel
from meshgan.model.rig import ARKIT, EXPRESSION_WEIGHTS, can_be_rigged, random_weights, targets_of

Place = Literal["inside", "edge", "outside"]

CENTRE = 512  # codes whose mean is the middle, where they come from a mapping network
DRAWS = 4000  # codes from which the range is found
SIZED = 256  # faces from which the room is found
USUAL, MOST = 0.95, 0.999  # shares of a model's own random faces that are usual, and nearly all
MARGIN = 1.15  # real faces have longer tails than a model's own: this much further is still in range
LEAST_MM = 0.15  # a trait that moves vertices less than this, for one standard deviation, gets no slider

REACH = 3.0  # standard deviations either way, for traits and axes
FULL, BEYOND = 1.0, 1.5  # expressions: the mean one, and how far past it the slider goes
NEUTRAL = "neutral"  # a label of expressions that is no expression
YEARS = "age"  # the label that is counted in its own unit
PERFORMED = 512  # faces that random expressions by a rig are drawn from
WORDS = {  # label: the slider's title, its lower and its upper end
    "age": ("Age, years", "younger", "older"),
    "female": ("Sex", "male", "female"),
    "male": ("Sex", "female", "male"),
    "weight": ("Weight", "lighter", "heavier"),
}


@dataclass(frozen=True, eq=False)
class Slider:
    """`value * vector` (D,) is added to a code, for values from `low` to `high`.

    `key` names it in seeds, `title` and `marks` (value, word) on the page; `expert` ones are principal axes.
    """

    key: str
    title: str
    vector: Codes
    low: float
    high: float
    step: float
    marks: tuple[tuple[float, str], ...]
    expert: bool = False

    def clipped(self, value: float) -> float:
        """The nearest value that the slider has, to two decimals; 0 for what is no number."""
        return round(float(np.clip(value, self.low, self.high)), 2) if np.isfinite(value) else 0.0


def traits(found: Directions) -> list[Slider]:
    """A slider for each label of an identity model, in standard deviations; age in years."""
    return [_trait(name, row, found) for row, name in enumerate(found.names)]


def _trait(name: str, row: int, found: Directions) -> Slider:
    title, less, more = WORDS.get(name, (_title(name), "less", "more"))
    unit = float(found.deviation[row]) if name == YEARS else 1.0
    reach = float(np.ceil(REACH * unit))
    vector = (found.vectors[row] / unit).astype(np.float32)
    return Slider(
        _key(name), title, vector, -reach, reach, 1.0 if unit > 1 else 0.05, ((-reach, less), (0.0, ""), (reach, more))
    )


def expressions(found: Directions, neutral: Codes) -> list[Slider]:
    """A slider for each expression: 0 is `neutral` (D,), 1 the mean face of the label."""
    return [
        Slider(
            _key(name), _title(name), (found.at(name, 1.0) - neutral).astype(np.float32), 0.0, BEYOND, 0.05,
            ((0.0, "none"), (FULL, "full"), (BEYOND, "more")),
        )
        for name in found.names
        if name != NEUTRAL
    ]  # fmt: skip


def axis_sliders(axes: Axes, prefix: str) -> list[Slider]:
    """An expert slider for each principal axis, titled with its share of the variance of faces."""
    return [
        Slider(
            f"{prefix}-{number}", f"Axis {number} ({_percent(share)})", vector, -REACH, REACH, 0.05,
            ((-REACH, f"−{REACH:g} σ"), (0.0, ""), (REACH, f"+{REACH:g} σ")), expert=True,
        )
        for number, (vector, share) in enumerate(zip(axes.vectors, axes.shares, strict=True), start=1)
    ]  # fmt: skip


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _key(name: str) -> str:
    """A label as it stands in a seed: without spaces and equals signs."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


@dataclass(frozen=True, eq=False)
class Range:
    """Where a model's codes lie: Mahalanobis distances, against the quantiles of those of its own random faces."""

    mean: Floats
    whitening: Floats
    usual: float
    limit: float

    @classmethod
    def of(cls, codes: Codes) -> "Range":
        """The range of drawn codes (N, D)."""
        mean = codes.mean(axis=0, dtype=np.float64)
        values, vectors = np.linalg.eigh(np.cov(codes, rowvar=False).reshape(codes.shape[1], -1))
        whitening = vectors / np.sqrt(np.maximum(values, 1e-6 * values.max()))
        usual, most = np.quantile(np.linalg.norm((codes - mean) @ whitening, axis=1), [USUAL, MOST])
        return cls(mean, whitening, float(usual), MARGIN * float(most))

    def place(self, code: Codes) -> Place:
        """Whether a code (D,) is usual, unusual, or further out than faces of this kind ever are."""
        distance = float(np.linalg.norm((code - self.mean) @ self.whitening))
        return "inside" if distance <= self.usual else "edge" if distance <= self.limit else "outside"


class StudioModel:
    """One of the two models of a studio. Codes are (D,), faces (V, 3) float32 in mm.

    `start` is the code that nothing has been done to: the mean face, or the neutral expression. Where codes are weights
    of a rig, `shapes` are the names of what they count.
    """

    def __init__(self, model: Model, start: Codes, sliders: list[Slider], shapes: tuple[str, ...] = ()) -> None:
        self.model, self.start, self.shapes = model, start, shapes
        self.sliders = {slider.key: slider for slider in sliders}
        self.range = Range.of(model.codes(DRAWS))

    @property
    def template(self) -> Mesh:
        return self.model.template

    @cached_property
    def still(self) -> Faces:
        """The face (V, 3) of `start`."""
        return self.decode(self.start[None])[0]

    @cached_property
    def mean_face(self) -> Faces:
        """The mean (V, 3) of the faces that the model was trained on."""
        return self.model.mean_face

    @cached_property
    def room(self) -> tuple[Floats, Floats]:
        """Two corners (3,) of the box, in mm, that usual faces of the model fit into."""
        faces = self.decode(self.model.codes(SIZED))
        low = np.quantile(faces.min(axis=1), 1 - USUAL, axis=0)
        return low, np.quantile(faces.max(axis=1), USUAL, axis=0)

    def decode(self, codes: Codes, numbers: Sequence[int] | None = None) -> Faces:
        """The faces (B, V, 3) of codes (B, D), with details of chance where each has one of `numbers` (B,)."""
        return decode(self.model, codes, numbers)


def decode(model: Model, codes: Codes, numbers: Sequence[int] | None = None) -> Faces:
    """Like `model.decode`, but without its padding, which fixes the last bit and takes thirty times as long."""
    return model.decode(codes, same_bits=False, numbers=numbers)


def load_pair(identity: str, expression: str | None) -> tuple[StudioModel, StudioModel | None]:
    """Both models, from folders or by names. Raises `UsageError` if they are of two templates."""
    first = load_model(identity)
    second = load_model(expression) if expression is not None else None
    if second is not None:
        check_same_template(first, second)
    return (
        identity_model(first, _directions(identity), Axes.find(first, identity)),
        expression_model(second, _directions(expression), Axes.find(second, expression))
        if second and expression
        else None,
    )


def identity_model(model: Model, found: Directions | None, axes: Axes | None = None) -> StudioModel:
    """Starts at the mean; its traits, if there are directions, and its principal axes are its sliders."""
    axes, start = axes or Axes.of(model), _middle(model)
    named = [slider for slider in (traits(found) if found else []) if _moves(model, start, slider) >= LEAST_MM]
    return StudioModel(model, start, named + axis_sliders(axes, "id"))


def expression_model(model: Model, found: Directions | None, axes: Axes | None = None) -> StudioModel:
    """Starts at the neutral expression; named expressions, if there are directions, and axes are its sliders."""
    axes = axes or Axes.of(model)
    named = expressions(found, axes.neutral) if found else []
    return StudioModel(model, axes.neutral, named + axis_sliders(axes, "exp"))


def rig_model(template: Mesh) -> StudioModel | None:
    """The 52 shapes of a template as its model of expressions, for one that no trained model is of; None if it has no
    rig. Codes are weights; random ones are what people do, or one shape alone."""
    if not can_be_rigged(template):
        return None
    targets = targets_of(template.vertices, "arkit")
    origin = Origin(
        recipe="", data="rig", source="the shapes of its template", licence="CC0-1.0", synthetic=True, faces_seen=0,
        seed=0,
    )  # fmt: skip
    card = ModelCard(
        kind="pca", name="arkit", code=len(ARKIT), sampler="bootstrap", origin=origin, template=template.content_hash
    )
    tensors = {
        "pca/mean": template.vertices.astype(np.float32),
        "pca/basis": np.stack([targets[name] for name in ARKIT]),
        "bootstrap/points": np.concatenate([random_weights(PERFORMED), np.eye(len(ARKIT))]).astype(np.float32),
        "bootstrap/noise": np.zeros(1, np.float32),
    }
    named = [
        Slider(
            name, _title(name), weights.astype(np.float32), 0.0, BEYOND, 0.05,
            ((0.0, "none"), (FULL, "full"), (BEYOND, "more")),
        )
        for name, weights in zip(EXPRESSIONS, EXPRESSION_WEIGHTS, strict=True)
    ]  # fmt: skip
    single = [
        Slider(name, name, weights, 0.0, FULL, 0.05, ((0.0, ""), (FULL, "")), expert=True)
        for name, weights in zip(ARKIT, np.eye(len(ARKIT), dtype=np.float32), strict=True)
    ]
    model = PcaModel(ModelParts(card, template, None, tensors))
    return StudioModel(model, np.zeros(len(ARKIT), np.float32), named + single, ARKIT)


def _directions(where: str | None) -> Directions | None:
    """What `meshgan directions` has left in a model folder, if it was asked."""
    folder = find_model(where or "")
    return Directions.load(folder) if (folder / FILE).is_file() else None


def _middle(model: Model) -> Codes:
    """The mean of the codes that a model is sampled with."""
    samplers = model.samplers
    if samplers.mapping is not None:
        return model.codes(CENTRE).mean(axis=0)
    fitted = samplers.mean if samplers.default in ("fitted-normal", "mixture") else None
    return np.zeros(model.code_size, np.float32) if fitted is None else fitted.astype(np.float32)


def _moves(model: Model, start: Codes, slider: Slider) -> float:
    """How far, in mm on average, a third of the slider's reach moves vertices."""
    before, after = decode(model, np.stack([start, start + slider.high / 3 * slider.vector]))
    return float(np.linalg.norm(after - before, axis=1).mean())
