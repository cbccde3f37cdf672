"""What hostile browsers send: bounded, ignored, and survived."""

import gc
import time
import tracemalloc

import pytest

pytest.importorskip("viser", reason="needs the extra studio")

import msgspec
from websockets.exceptions import ConnectionClosed

from meshgan.studio import guard, wire
from visitor import Visitor, until

LIMIT = 100_000


@pytest.fixture
def small(monkeypatch):
    """Uploads of at most 100 kB."""
    monkeypatch.setattr(guard, "MOST_BYTES", LIMIT)


@pytest.fixture
def visitor(studio):
    with Visitor(studio.addresses[0]) as visitor:
        visitor.control("Load a mesh")
        yield visitor


def transfers(studio):
    """What the server holds of uploads that have not ended."""
    return [state for page in studio.pages.values() for state in page.gui._current_file_upload_states.values()]


def answers(visitor):
    """The server still does what this visitor wants."""
    before = visitor.control("Seed")["value"]
    visitor.press("Random face")
    return visitor.wait(lambda: visitor.control("Seed")["value"] != before)


def test_a_file_that_says_it_is_too_large_is_refused_at_once(studio, visitor, small):
    visitor.upload("Load a mesh", "big.obj", b"v 0 0 0\n" * 10, size=LIMIT + 1)
    visitor.wait(lambda: any("larger than" in note for note in visitor.notes))
    assert not transfers(studio)
    assert answers(visitor)


def test_a_file_that_lies_about_its_size_is_cut_off(studio, visitor, small):
    visitor.upload("Load a mesh", "liar.obj", b"\0" * (3 * LIMIT), size=1000, part=1000)
    assert answers(visitor)
    (cut,) = transfers(studio)
    assert sum(map(len, cut["parts"].values())) <= 1000


def test_many_uploads_at_a_time_are_one(studio, visitor, small):
    for number in range(30):
        button = visitor.control("Load a mesh")["uuid"]
        head = {"source_component_uuid": button, "transfer_uuid": f"t{number}"}
        start = {"type": "FileTransferStartUpload", "filename": "x.obj", "mime_type": "", "part_count": 9}
        visitor.send(start | head | {"size_bytes": LIMIT})
        for other in range(number + 1):
            part = {"type": "FileTransferPart", "source_component_uuid": button, "transfer_uuid": f"t{other}"}
            visitor.send(part | {"part_index": 0, "content": b"\0" * 5000})
    assert answers(visitor)
    assert len(transfers(studio)) == 1


def test_an_honest_upload_still_works(studio, visitor, small):
    visitor.upload("Load a mesh", "x.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n" * 100, part=500)
    visitor.wait(lambda: any("register it first" in note for note in visitor.notes))
    assert not transfers(studio)


@pytest.mark.parametrize(
    "updates",
    [
        {"value": "x" * 20_000},
        {"value": [1.0] * 1000},
        {"value": {"a": 1}},
        {"value": float("nan")},
        {"value": 1e300},
        {"update_cb": "gone"},
        {"value": 1.0, "props": None},
        {"removed": True},
        {},
    ],
)
def test_controls_take_small_values_only(studio, visitor, updates):
    for label in ("Age, years", "Seed", "Keep identity"):
        visitor.send({"type": "GuiUpdateMessage", "uuid": visitor.control(label)["uuid"], "updates": updates})
    assert answers(visitor)
    (page,) = studio.pages.values()
    assert len(page.session.state.seed) < 1000
    assert page.session.amount("age") == 0


@pytest.mark.parametrize(
    ("label", "value"), [("History", "Explode"), ("Look around", ""), ("Unit of the file", "parsec")]
)
def test_choices_that_are_not_offered_do_nothing(studio, visitor, label, value):
    visitor.put(label, value)
    assert answers(visitor)


def test_huge_messages_end_the_connection_and_nothing_else(studio, visitor):
    with Visitor(studio.addresses[0]) as hostile:
        hostile.control("Seed")
        with pytest.raises(ConnectionClosed):
            for _ in range(40):
                hostile.put("Seed", "x" * (wire.MOST_MESSAGE + 1000))
                time.sleep(0.05)
    assert answers(visitor)


@pytest.mark.parametrize("data", [b"", b"\xc1\xff", msgspec.msgpack.encode({"type": "NoSuchMessage"}), b"\x90" * 1000])
def test_noise_ends_the_connection_and_nothing_else(studio, visitor, data):
    with Visitor(studio.addresses[0]) as hostile:
        hostile.control("Seed")
        hostile.socket.send(data)
    assert answers(visitor)


def test_nobody_can_open_a_tunnel_to_the_world(studio, visitor, monkeypatch):
    asked = []
    monkeypatch.setattr(studio.server, "request_share_url", lambda: asked.append(True))
    visitor.send({"type": "ShareUrlRequest"})
    assert answers(visitor)
    assert not asked


def test_memory_of_a_busy_visitor_is_bounded(studio, visitor):
    """A hundred further random faces, slides and undos cost next to nothing."""

    def work():
        for _ in range(100):
            visitor.press("Random face")
            visitor.put("Age, years", 5.0)
            visitor.press("History", "Undo")
        (page,) = studio.pages.values()
        until(lambda: page.idle)
        gc.collect()

    work()
    tracemalloc.start()
    work()
    before = tracemalloc.get_traced_memory()[0]
    work()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 2e6
