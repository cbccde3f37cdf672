"""The studio with visitors, everything but the browser's drawing."""

import asyncio
import gc
import io
import json
import threading
import time
import weakref

import numpy as np
import pytest
import trimesh

pytest.importorskip("viser", reason="needs the extra studio")

from meshgan.geometry.files import write_mesh
from meshgan.studio.gate import Gate, is_loopback
from meshgan.studio.server import Studio
from meshgan.studio.session import GRID, Session
from visitor import Visitor, until

HIDDEN = {"/light/key", "/light/fill", "/light/rim", "/light/sky"}


@pytest.fixture
def visitor(studio):
    with Visitor(studio.addresses[0]) as visitor:
        visitor.control("Random face")
        yield visitor


def page_of(studio, visitor):
    """The server's page for the only visitor."""
    (page,) = visitor.wait(lambda: studio.pages.values() if len(studio.pages) == 1 else None)
    return page


def press(visitor, studio, *what):
    """Press a control and wait for the server to have dealt with it."""
    page = page_of(studio, visitor)
    before = page.changes
    visitor.press(*what)
    until(lambda: page.changes > before)


def test_there_is_a_lit_face_at_once(studio, visitor):
    assert {"/face", *HIDDEN} <= visitor.wait(lambda: set(visitor.scene) if len(visitor.scene) > 5 else None)
    np.testing.assert_allclose(visitor.face, page_of(studio, visitor).session.face)
    visitor.wait(lambda: "mm from the mean face" in visitor.page)


def test_a_random_face_reaches_the_browser(studio, visitor):
    before = visitor.face
    press(visitor, studio, "Random face")
    visitor.wait(lambda: not np.array_equal(visitor.scene["/face"]["vertices"], before))
    np.testing.assert_allclose(visitor.face, page_of(studio, visitor).session.face)


def test_sliders_move_the_face_and_follow_undo(studio, visitor):
    session = page_of(studio, visitor).session
    before = session.face
    visitor.put("Age, years", 12.0)
    until(lambda: session.amount("age") == 12)
    visitor.wait(lambda: np.allclose(visitor.scene["/face"]["vertices"], session.face))
    assert not np.allclose(session.face, before)
    press(visitor, studio, "History", "Undo")
    until(lambda: session.amount("age") == 0)
    visitor.wait(lambda: visitor.control("Age, years")["value"] == 0.0)
    np.testing.assert_allclose(session.face, before)
    press(visitor, studio, "History", "Redo")
    visitor.wait(lambda: visitor.control("Age, years")["value"] == 12.0)


def test_of_many_slider_movements_the_last_one_stays(studio, visitor):
    session = page_of(studio, visitor).session
    for value in np.linspace(0, 40, 41):
        visitor.put("Age, years", float(value))
    until(lambda: session.amount("age") == 40)
    visitor.wait(lambda: np.allclose(visitor.scene["/face"]["vertices"], session.face))
    assert visitor.control("Age, years")["value"] in (0.0, 40.0)  # the server does not pull the slider back


def test_locks_mean_and_neutral(studio, visitor):
    session = page_of(studio, visitor).session
    visitor.put("Keep identity", True)
    until(lambda: session.locked == {"identity"})
    seed = session.state.identity.source
    press(visitor, studio, "Random face")
    assert session.state.identity.source == seed
    visitor.put("Keep identity", False)
    until(lambda: not session.locked)
    press(visitor, studio, "Only a new", "Identity")
    press(visitor, studio, "Only a new", "Expression")
    press(visitor, studio, "Start from", "Mean face")
    press(visitor, studio, "Start from", "Neutral")
    assert session.state.seed == "id=start exp=start"


def test_a_seed_travels_from_one_visitor_to_another(studio, visitor):
    press(visitor, studio, "Random face")
    visitor.put("Happiness", 0.5)
    session = page_of(studio, visitor).session
    until(lambda: session.amount("happiness") == 0.5)
    seed = visitor.wait(lambda: (c := visitor.control("Seed"))["value"] == session.state.seed and c["value"])
    with Visitor(studio.addresses[0]) as other:
        other.put("Seed", seed)
        other.press("", "Go to this seed")
        other.wait(lambda: np.allclose(other.face, visitor.face))


def test_a_wrong_seed_is_a_sentence(studio, visitor):
    visitor.put("Seed", "<b>nonsense</b>")
    visitor.press("", "Go to this seed")
    visitor.wait(lambda: any("a seed is made of words" in note for note in visitor.notes))


def test_similar_faces_are_shown_and_picked(studio, visitor):
    session = page_of(studio, visitor).session
    press(visitor, studio, "Look around", "Similar faces")
    visitor.wait(lambda: sum(name.startswith("/gallery/") for name in visitor.scene) >= 8)
    assert visitor.scene["/face"]["visible"] is False
    chosen = session.faces([session.gallery.states[5]])[0]
    click = {"type": "SceneNodeClickMessage", "name": "/gallery/5", "instance_index": None, "modifier": None}
    owner = str(next(iter(studio.pages)))
    rays = {"ray_origin": (0, 0, 1), "ray_direction": (0, 0, -1), "screen_pos": (0, 0)}
    visitor.send(click | rays | {"owner": owner})
    visitor.wait(lambda: np.allclose(visitor.scene["/face"]["vertices"], chosen))
    visitor.wait(
        lambda: not any(name.startswith(("/gallery/", "/titles/above/", "/hollows/")) for name in visitor.scene)
    )
    assert visitor.scene["/face"]["visible"] is True


def test_the_grid_is_shown_and_left(studio, visitor):
    press(visitor, studio, "All between", "Grid of blends")
    visitor.wait(lambda: sum(name.startswith("/gallery/") for name in visitor.scene) >= len(GRID) ** 2)
    visitor.wait(lambda: {"id = −0.5", "exp = 1.5"} <= {thing.get("text") for thing in visitor.scene.values()})
    press(visitor, studio, "Back to my face")
    visitor.wait(lambda: visitor.scene["/face"]["visible"])


def test_blends_between_two_kept_faces(studio, visitor):
    session = page_of(studio, visitor).session
    press(visitor, studio, "Random face")
    press(visitor, studio, "My face is now", "A")
    first = session.state
    press(visitor, studio, "Random face")
    press(visitor, studio, "My face is now", "B")
    assert (session.a, session.b) == (first, session.state)
    visitor.put("From A to B", 1.5)
    until(lambda: session.state.identity.source.startswith("~"))


def saved(visitor, kind, row):
    visitor.press(row, kind.upper())
    return visitor.wait(lambda: visitor.files.get(f"face.{kind}"))


def test_every_format_is_downloaded_whole(studio, visitor):
    session = page_of(studio, visitor).session
    for kind in ("obj", "ply"):
        loaded = trimesh.load_mesh(io.BytesIO(saved(visitor, kind, "Mesh")), file_type=kind, process=False)
        np.testing.assert_allclose(loaded.vertices, session.face, atol=1e-3)
    assert saved(visitor, "glb", "Mesh")[:4] == b"glTF"
    assert saved(visitor, "png", "Picture")[:4] == b"\x89PNG"
    assert json.loads(saved(visitor, "json", "Code"))["seed"] == session.state.seed


@pytest.fixture
def mesh_file(tmp_path, pair):
    """A face of the model as a PLY file."""
    path = tmp_path / "mine.ply"
    write_mesh(path, pair[0].template.with_vertices(pair[0].decode(pair[0].model.codes(1, seed=12))[0]))
    return path.read_bytes()


def test_a_mesh_is_uploaded_fitted_and_looked_at(studio, visitor, mesh_file):
    page = page_of(studio, visitor)
    visitor.upload("Load a mesh", "mine.ply", mesh_file, part=1000)
    visitor.wait(lambda: "/heat" in visitor.scene)
    visitor.wait(lambda: "from your mesh on average" in visitor.page)
    assert page.session.target is not None
    best = studio.shared.identity.model.fit(page.session.target[None]).vertices[0]
    np.testing.assert_allclose(page.session.face, best, atol=0.05)
    press(visitor, studio, "Show", "My mesh")
    visitor.wait(lambda: np.allclose(visitor.face, page.session.target) and visitor.scene["/face"]["visible"])
    press(visitor, studio, "Show", "Errors")
    visitor.wait(lambda: visitor.scene["/heat"]["visible"])
    visitor.put("Age, years", 5.0)  # editing goes on, the errors follow
    until(lambda: page.session.amount("age") == 5 and page.view == "errors")
    press(visitor, studio, "Show", "Face")
    visitor.wait(lambda: np.allclose(visitor.face, page.session.face) and visitor.scene["/face"]["visible"])


def test_a_saved_code_is_uploaded(studio, visitor, pair):
    session = Session(*pair, seed=77)
    visitor.upload("Load a mesh", "face.json", json.dumps({"seed": session.state.seed}).encode())
    visitor.wait(lambda: np.allclose(visitor.face, session.face))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("virus.exe", b"MZ" * 50, "meshes are read from"),
        ("cut.ply", b"ply\nformat binary_little_endian 1.0\nelement vertex 9999\n", "cut.ply"),
        ("empty.obj", b"", "empty.obj"),
        ("face.json", b"{]", "holds no face"),
        ("other.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "register it first"),
    ],
)
def test_bad_uploads_are_sentences_and_the_studio_goes_on(studio, visitor, name, content, sentence):
    visitor.upload("Load a mesh", name, content)
    visitor.wait(lambda: any(sentence in note for note in visitor.notes))
    press(visitor, studio, "Random face")


def test_our_own_faults_are_a_sentence_too(studio, visitor, monkeypatch, capsys):
    session = page_of(studio, visitor).session
    monkeypatch.setattr(session, "offer_grid", None)
    page = page_of(studio, visitor)
    callback = page.act(lambda: 1 / 0)
    asyncio.run(callback(type("Event", (), {"client": object()})()))
    visitor.wait(lambda: any("studio's fault" in note for note in visitor.notes))
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_visitor_who_leaves_frees_everything(studio):
    with Visitor(studio.addresses[0]) as visitor:
        press(visitor, studio, "Look around", "Similar faces")
        visitor.wait(lambda: "/gallery/3" in visitor.scene)
        page = page_of(studio, visitor)
        left = [weakref.ref(thing) for thing in (page, page.session, page.stage, page.client)]
        del page
    until(lambda: not studio.pages)

    def freed():
        gc.collect()
        return not any(ref() for ref in left)

    until(freed)


@pytest.fixture
def slow_pages(monkeypatch):
    """A page takes a fifth of a second before anything is on it."""
    monkeypatch.setattr("meshgan.studio.page.Session", lambda *words: time.sleep(0.2) or Session(*words))


@pytest.mark.parametrize("after", [0.0, 0.1, 0.21, 0.25])
def test_a_visitor_who_leaves_while_the_page_is_built_leaves_no_words(studio, slow_pages, capsys, after):
    with Visitor(studio.addresses[0]):
        time.sleep(after)
    time.sleep(0.4)
    until(lambda: not studio.pages)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("after", [0.0, 0.1, 0.21, 0.25])
def test_stopping_while_a_page_is_built_leaves_no_words(shared, slow_pages, capsys, after):
    running = Studio(shared, Gate(port=0))
    with Visitor(running.addresses[0]):
        time.sleep(after)
        running.stop()
    time.sleep(0.4)
    assert capsys.readouterr().err == ""


def test_several_visitors_each_have_their_own_face(studio):
    with Visitor(studio.addresses[0]) as first, Visitor(studio.addresses[0]) as second:
        first.control("Random face"), second.control("Random face")
        assert not np.allclose(first.face, second.face)
        before = second.face
        first.press("Random face")
        first.press("Random face")
        assert len(until(lambda: studio.pages if len(studio.pages) == 2 else None)) == 2
        np.testing.assert_array_equal(second.face, before)


def test_a_full_studio_says_so(studio, monkeypatch):
    monkeypatch.setattr("meshgan.studio.gate.MOST_VISITORS", 0)
    with Visitor(studio.addresses[0]) as visitor:
        visitor.wait(lambda: "The studio is full" in visitor.page)


def test_stopping_ends_all_connections_and_threads(shared):
    before = {thread.name for thread in threading.enumerate()}
    running = Studio(shared, Gate(port=0))
    with Visitor(running.addresses[0]) as visitor:
        visitor.control("Random face")
        running.stop()
        with pytest.raises(Exception):  # noqa: B017  (the socket is closed, one way or another)
            for _ in range(50):
                visitor.press("Random face")
                time.sleep(0.05)
    until(lambda: not [t for t in threading.enumerate() if t.name not in before and "pytest" not in t.name], 15)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.7", False), ("me", False)],
)
def test_which_addresses_are_this_machine_alone(host, local):
    assert is_loopback(host) is local
