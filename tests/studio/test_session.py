"""What a visitor does, without a browser."""

import numpy as np
import pytest

from meshgan.errors import UsageError
from meshgan.model.compose import compose
from meshgan.model.latent import interpolate
from meshgan.studio import session as session_module
from meshgan.studio.session import GRID, NEARNESS, Session


@pytest.fixture
def session(pair):
    return Session(*pair, seed=4, clock=iter(range(10**6)).__next__)  # every change is a step of its own


def codes(session):
    state = session.state
    return state.identity.code(session.identity), state.expression.code(session.expression)


def test_at_first_there_is_a_random_face_without_expression(session, pair):
    identity, _ = pair
    np.testing.assert_array_equal(session.face, identity.decode(codes(session)[0][None])[0])
    assert session.state.seed == f"id={session.state.identity.source} exp=start"


def test_a_face_is_composed_as_compose_does_it(session, pair):
    identity, expression = pair
    session.random()
    person, feeling = codes(session)
    expected = compose(identity.decode(person[None]), expression.decode(feeling[None]), expression.still)[0]
    np.testing.assert_allclose(session.face, expected, atol=1e-5)


def test_locks_keep_a_half(session):
    session.random()
    person, feeling = codes(session)
    session.locked.add("identity")
    for change in (session.random, lambda: session.blend(0.4), lambda: session.start_over("identity")):
        change()
        np.testing.assert_array_equal(codes(session)[0], person)
    assert not np.array_equal(codes(session)[1], feeling)
    session.locked = {"expression"}
    feeling = codes(session)[1]
    session.random()
    assert not np.array_equal(codes(session)[0], person)
    np.testing.assert_array_equal(codes(session)[1], feeling)


def test_one_half_can_be_random_alone(session):
    session.random()
    person, feeling = codes(session)
    session.random("expression")
    np.testing.assert_array_equal(codes(session)[0], person)
    assert not np.array_equal(codes(session)[1], feeling)


def test_two_visitors_have_their_own_faces_and_a_seed_repeats_one(pair):
    first, second, third = (Session(*pair, seed=seed) for seed in (1, 2, 1))
    assert not np.array_equal(first.face, second.face)
    np.testing.assert_array_equal(first.face, third.face)
    before = second.face
    first.random()
    np.testing.assert_array_equal(second.face, before)


def test_sliders_add_their_vectors_and_go_back_to_zero(session, pair):
    identity, expression = pair
    person, feeling = codes(session)
    session.slide("age", 10)
    session.slide("id-2", -1.5)
    session.slide("happiness", 0.75)
    moved = person + 10 * identity.sliders["age"].vector - 1.5 * identity.sliders["id-2"].vector
    np.testing.assert_allclose(codes(session)[0], moved, atol=1e-5)
    np.testing.assert_allclose(codes(session)[1], feeling + 0.75 * expression.sliders["happiness"].vector, atol=1e-5)
    assert [session.amount(key) for key in ("age", "id-2", "happiness", "female")] == [10, -1.5, 0.75, 0]
    session.reset_sliders("identity")
    np.testing.assert_array_equal(codes(session)[0], person)
    assert session.amount("happiness") == 0.75
    with pytest.raises(UsageError, match="no slider"):
        session.slide("colour", 1)


def test_an_expression_slider_at_one_is_the_labels_mean_face(session, pair):
    _, expression = pair
    session.slide("anger", 1)
    shown = expression.decode(codes(session)[1][None])[0] - expression.still
    np.testing.assert_allclose(session.shift(), shown, atol=1e-6)


@pytest.mark.parametrize("factor", [-0.5, 0.25, 1.5])
def test_a_blend_is_equation_3(session, pair, factor):
    session.random()
    session.keep("A")
    session.random()
    session.keep("B")
    session.blend(factor)
    for model, mine, half in zip(pair, codes(session), ("identity", "expression"), strict=True):
        ends = [getattr(state, half).code(model) for state in (session.a, session.b)]
        np.testing.assert_allclose(mine, interpolate(*ends, [factor])[0], rtol=2e-3, atol=1e-3)


def test_the_ends_of_a_blend_are_the_faces_themselves(session):
    for factor, kept in ((0.0, session.a), (1.0, session.b)):
        session.blend(factor)
        assert session.state.seed == kept.seed


@pytest.mark.parametrize(("asked", "got"), [(7.0, 1.5), (-7.0, -0.5), (float("nan"), 0.0)])
def test_a_blend_stays_on_its_slider(session, asked, got):
    session.blend(got)
    expected = session.face
    session.blend(asked)
    np.testing.assert_allclose(session.face, expected, atol=1e-6)


def test_the_grid_holds_all_factors_of_both(session, pair):
    session.offer_grid()
    assert len(session.gallery.states) == len(GRID) ** 2 == len(session.gallery.above) * len(session.gallery.beside)
    faces = session.faces(session.gallery.states).reshape(len(GRID), len(GRID), -1, 3)
    one = GRID.index(1.0)
    np.testing.assert_allclose(faces[one, one], session.faces([session.b])[0], atol=1e-5)
    mixed = session.gallery.states[one * len(GRID) + GRID.index(0.0)]
    assert mixed.identity is session.b.identity
    assert mixed.expression is session.a.expression


def test_similar_faces_are_near_and_as_varied_as_random_ones(session, pair):
    identity, _ = pair
    session.offer_similar()
    offered = session.gallery.states
    assert offered[0] is session.state
    others = np.stack([state.identity.code(identity) for state in offered[1:]])
    near = np.linalg.norm((others - codes(session)[0]) @ identity.range.whitening, axis=1)
    far = np.linalg.norm((identity.model.codes(50) - codes(session)[0]) @ identity.range.whitening, axis=1)
    assert near.min() > 0
    assert near.mean() < 2 * NEARNESS * far.mean()
    assert all(state.expression is session.state.expression for state in offered)


def test_with_the_identity_locked_other_expressions_are_offered(session):
    session.random()
    session.locked.add("identity")
    session.offer_similar(columns=2)
    assert all(state.identity is session.state.identity for state in session.gallery.states)
    assert len({state.expression.source for state in session.gallery.states}) == 8
    assert (len(session.gallery.above), len(session.gallery.beside)) == (2, 4)


def test_one_picks_a_face_or_goes_back(session):
    before = session.state
    for number in (-1, 99):
        session.offer_similar()
        session.pick(number)
        assert session.state is before
        assert session.gallery is None
    session.offer_similar()
    chosen = session.gallery.states[3]
    session.pick(3)
    assert session.state is chosen
    session.pick(3)  # a late click
    assert session.state is chosen


def test_undo_and_redo_go_through_all_that_was_done(session):
    faces = [session.face]
    for deed in (session.random, lambda: session.slide("age", 9), lambda: session.blend(0.5), session.random):
        deed()
        faces.append(session.face)
    for face in faces[-2::-1]:
        session.history.undo()
        np.testing.assert_array_equal(session.face, face)
    for face in faces[1:]:
        session.history.redo()
        np.testing.assert_array_equal(session.face, face)


def test_the_mean_face_is_near_the_mean(session):
    session.start_over("identity")
    session.start_over("expression")
    assert session.measure().distance_mm < 1e-3
    assert session.measure().identity == session.measure().expression == "inside"


def test_distance_is_the_mean_over_vertices(session, pair):
    expected = np.mean([np.linalg.norm(p) for p in session.face - pair[0].mean_face])
    assert session.measure().distance_mm == pytest.approx(expected, rel=1e-5)


def test_leaving_the_range_is_noticed(session):
    session.start_over("identity")
    seen = []
    for amount in (0.5, 3.0):
        for axis in range(1, 6):
            session.slide(f"id-{axis}", amount)
        seen.append(session.measure().identity)
    assert seen == ["inside", "outside"]
    for axis in range(1, 5):
        session.slide(f"exp-{axis}", 3.0)
    assert session.measure().expression == "outside"


def test_a_fit_is_adopted_with_its_mesh(session, pair):
    target = pair[0].decode(pair[0].model.codes(1, seed=3))[0]
    session.adopt(target, pair[0].model.codes(1, seed=3)[0], None)
    assert session.target is target
    np.testing.assert_allclose(session.face, target, atol=0.02)
    session.history.undo()
    assert session.target is target  # still there to compare with


def test_one_model_alone_is_enough(pair):
    session = Session(pair[0], None, seed=1)
    for deed in (session.random, session.offer_similar, session.offer_grid, lambda: session.blend(0.3)):
        deed()
    assert len(session.gallery.states) == len(GRID)
    session.pick(2)
    assert session.state.expression is None
    assert not session.shift().any()
    session.use_seed("id=5 exp=7")
    assert session.state.seed == "id=5"
    with pytest.raises(UsageError):
        session.slide("anger", 1)


def test_a_slider_of_one_half_leaves_the_other_as_it_was_made(pair, monkeypatch):
    session, made = Session(*pair, seed=3), []
    _ = session.face
    plain = session_module.faces_of
    monkeypatch.setattr(session_module, "faces_of", lambda model, parts: made.append(model) or plain(model, parts))
    for key, model in (("age", pair[0]), ("anger", pair[1])):
        session.slide(key, 0.5)
        face = session.face
        assert made == [model]
        np.testing.assert_array_equal(face, session.faces([session.state])[0])
        made.clear()
