"""Seeds: the same line of text is the same face, and any other text is a sentence."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import UsageError
from meshgan.model.samplers import chance, face_numbers
from meshgan.studio.exchange import download, read_code
from meshgan.studio.session import Part, Session, State, read_seed
from meshgan.studio.sliders import StudioModel


def same(first: State, second: State, pair) -> bool:
    identity, expression = pair
    return np.array_equal(first.identity.code(identity), second.identity.code(identity)) and np.array_equal(
        first.expression.code(expression), second.expression.code(expression)
    )


def test_what_one_does_is_in_the_seed(pair):
    session = Session(*pair, seed=1)
    deeds = [
        session.random,
        lambda: session.slide("age", 12),
        lambda: session.slide("anger", 0.5),
        lambda: session.slide("id-1", -1.234),
        lambda: session.start_over("expression"),
        lambda: session.blend(0.3),
        lambda: session.slide("exp-2", 2),
        lambda: session.start_over("identity"),
    ]
    for deed in deeds:
        deed()
        again = read_seed(session.state.seed, *pair)
        assert same(again, session.state, pair), session.state.seed
        assert again.seed == session.state.seed


def test_a_number_is_what_sample_draws_with_that_seed(pair):
    identity, _ = pair
    state = read_seed("id=417", *pair)
    np.testing.assert_array_equal(state.identity.code(identity), identity.model.codes(1, seed=417)[0])
    np.testing.assert_array_equal(state.expression.code(pair[1]), pair[1].start)


@given(st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5))
@settings(max_examples=40)
def test_any_code_has_a_short_seed_that_is_exact(pair, numbers):
    code = np.array(numbers, np.float32)
    part = Part.of_code(code)
    np.testing.assert_allclose(part.base, code, rtol=1e-3, atol=1e-6)
    again = Part.of_source(pair[0], part.source)
    np.testing.assert_array_equal(again.base, part.base)
    assert again.source == part.source


def test_a_slider_back_at_zero_leaves_no_trace(pair):
    part = Part.at_start(pair[0]).moved("age", 5.0).moved("age", 0.0)
    assert part.amounts == {}


def test_half_precision_is_fine_enough(pair):
    """Rounding a code moves no vertex by a hundredth of a millimetre."""
    identity, _ = pair
    codes = identity.model.codes(50, seed=9)
    rounded = np.stack([Part.of_code(code).base for code in codes])
    assert np.abs(identity.decode(codes) - identity.decode(rounded)).max() < 0.02


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "starts with id="),
        ("hello", "made of words like"),
        ("id=", "made of words like"),
        ("exp=3", "starts with id="),
        ("id=-3", "no seed"),
        ("id=1e3", "no seed"),
        ("id=٣", "no seed"),
        ("id=" + "9" * 30, "no seed"),
        ("id=~", "another model"),
        ("id=~AAAA", "no seed"),
        ("id=~AAAAAAAA", "another model"),
        ("id=~!!!!", "no seed"),
        ("id=~AAAAAAAAAAAAAA==.x", "no number of a face"),
        ("id=~AAAAAAAAAAAAAA==." + "9" * 19, "no number of a face"),
        ("id=~" + "A" * 7000, "no seed|another model"),
        ("id=" + "1" * 9000, "too long"),
        ("id=5 age=abc", "no number"),
        ("id=5 colour=3", "no slider"),
        ("id=5 <script>=3", "no slider"),
    ],
)
def test_other_texts_are_refused_in_one_sentence(pair, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        read_seed(text, *pair)


class Grainy:
    """A model whose faces have details of chance: a shift of 1 mm and less that follows from a face's number."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def decode(self, codes, same_bits=True, numbers=None):
        faces = self.model.decode(codes, same_bits=same_bits)
        return faces if numbers is None else faces + chance(np.array(numbers), 1)[:, :, None].clip(-1, 1)


@pytest.fixture
def grainy(pair):
    identity, expression = pair
    model = StudioModel(Grainy(identity.model), identity.start, list(identity.sliders.values()))
    return model, expression


def test_a_random_face_has_the_details_that_sample_gives_it(grainy):
    session = Session(*grainy, seed=1)
    session.use_seed("id=417")
    codes, numbers = grainy[0].model.codes(1, 417), face_numbers(1, 417)
    np.testing.assert_allclose(session.face, grainy[0].model.decode(codes, numbers=numbers)[0], atol=1e-4)
    assert np.abs(session.face - grainy[0].decode(codes)[0]).max() > 0.01


def test_details_stay_with_a_face_that_is_changed(grainy):
    """Sliders, similar faces and half of a blend keep them; files and seeds bring them back."""
    session = Session(*grainy, seed=1)
    number = session.state.identity.number
    session.slide("age", 12)
    assert session.state.identity.number == number
    session.offer_similar()
    session.pick(3)
    assert session.state.identity.number == number
    assert session.state.seed.split()[0].endswith(f".{number}")
    again = read_seed(session.state.seed, *grainy)
    np.testing.assert_array_equal(session.faces([again])[0], session.face)
    assert read_code("face.json", download(session, "json", {})) == session.state.seed
    session.blend(0.25)
    assert session.state.identity.number == session.a.identity.number
    session.blend(0.75)
    assert session.state.identity.number == session.b.identity.number
    session.start_over("identity")
    assert session.state.identity.number is None


def test_a_code_file_of_sample_brings_its_details_along(grainy):
    code, number = grainy[0].model.codes(1, 5)[0], int(face_numbers(1, 5)[0])
    seed = read_code("face.json", json.dumps({"code": code.tolist(), "number": number}).encode())
    assert read_seed(seed, *grainy).identity.number == number


def test_codes_that_are_no_numbers_are_refused(pair):
    nan = Part.of_code(np.full(5, np.nan, np.float32)).source
    far = Part.of_code(np.full(5, 5000, np.float32)).source
    for source in (nan, far):
        with pytest.raises(UsageError, match="another model"):
            read_seed(f"id={source}", *pair)


@given(st.text(max_size=60))
@settings(max_examples=60)
def test_whatever_is_typed_is_a_face_or_a_sentence(pair, text):
    for candidate in (text, f"id={text}", f"id=1 {text}", f"id=1 age={text}"):
        try:
            state = read_seed(candidate, *pair)
        except UsageError as error:
            assert str(error).endswith(".")
        else:
            assert np.isfinite(state.identity.code(pair[0])).all()


def test_without_an_expression_model_its_part_is_left_out(pair):
    state = read_seed("id=5 exp=7", pair[0], None)
    assert state.expression is None
    assert state.seed == "id=5"
