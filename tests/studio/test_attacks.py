"""What hostile visitors do to a studio that is running, and that nobody else notices."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("viser", reason="needs the extra studio")

import msgspec
from viser import _messages as messages
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from meshgan.bench.studio import CAMERA
from meshgan.geometry.files import write_mesh
from meshgan.studio import gate, wire, worker
from meshgan.studio.controls import plain
from meshgan.studio.guard import PROTOCOL
from meshgan.studio.page import Shared
from meshgan.studio.server import Studio
from meshgan.studio.wire import COOKIE
from visitor import Visitor, until

ALLOWED = {"ViewerCameraMessage", "GuiUpdateMessage", "SceneNodeClickMessage"} | {
    "FileTransferStartUpload", "FileTransferPart",
}  # fmt: skip
UPGRADE = (
    "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n"
    f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\nSec-WebSocket-Protocol: {PROTOCOL}"
)


@pytest.fixture(autouse=True)
def alone(studio):
    """Each test begins in an empty studio."""
    until(lambda: not studio.pages and not studio._gate._inside)


@pytest.fixture
def visitor(studio):
    with Visitor(studio.addresses[0]) as visitor:
        visitor.control("Load a mesh")
        yield visitor


@pytest.fixture
def quiet(capfd, caplog):
    """The console stays empty: no traceback, no warning."""
    caplog.set_level(logging.WARNING)
    yield
    assert capfd.readouterr().err == ""
    assert not caplog.records


@pytest.fixture
def mesh_file(tmp_path, pair):
    path = tmp_path / "mine.ply"
    write_mesh(path, pair[0].template.with_vertices(pair[0].decode(pair[0].model.codes(1, seed=12))[0]))
    return path.read_bytes()


def answers(visitor):
    """The studio does what this visitor wants."""
    before = visitor.control("Seed")["value"]
    visitor.press("Random face")
    return visitor.wait(lambda: visitor.control("Seed")["value"] != before)


def page_of(studio):
    (page,) = until(lambda: list(studio.pages.values()) if len(studio.pages) == 1 else None)
    return page


def asked(studio, head):
    """The first line that a request is answered with."""
    with socket.create_connection(("127.0.0.1", studio.port), timeout=300) as line:
        line.sendall(head.replace("\n", "\r\n").encode("utf-8") + b"\r\n\r\n")
        return line.makefile("rb").readline().decode().strip()


# Any web page enters it


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://evil.example", "null", "http://127.0.0.1:1", "http://localhost:{port}", "file://"],
)
def test_a_page_of_another_origin_may_not_enter(studio, origin, capfd):
    with pytest.raises(InvalidStatus) as refused:
        Visitor(studio.addresses[0], {"Origin": origin.format(port=studio.port)}).__enter__()
    assert refused.value.response.status_code == 403
    assert not studio.pages


def test_the_studios_own_page_may_enter(studio):
    with Visitor(studio.addresses[0], {"Origin": studio.addresses[0]}) as visitor:
        assert answers(visitor)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.7", "", "[", "::"]
)
def test_a_name_that_was_bent_to_this_machine_gets_nothing(studio, host, capfd):
    """DNS rebinding: the page and the address are of one origin, and that is not ours."""
    name = host.format(port=studio.port)
    for target in ("/", "/index.html"):
        assert " 403 " in asked(studio, f"GET {target} HTTP/1.1\nHost: {name}")
    assert " 403 " in asked(studio, f"GET / HTTP/1.1\nHost: {name}\nOrigin: http://{name}\n{UPGRADE}")


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "127.0.0.2:80", "[::1]:8080"])
def test_names_of_this_machine_may_enter_from_any_port(studio, host):
    """Through `ssh -L`, the browser's port is another one."""
    assert " 200 " in asked(studio, f"GET / HTTP/1.1\nHost: {host}")


def test_the_viewer_behind_the_gate_lets_nobody_in(studio, quiet):
    inner = f"ws://127.0.0.1:{studio.server.get_port()}"
    with connect(inner, subprotocols=[PROTOCOL], compression=None, max_size=None) as line:
        with contextlib.suppress(ConnectionClosed):
            line.send(msgspec.msgpack.encode(CAMERA))
        with pytest.raises(ConnectionClosed):
            for _ in range(100):
                line.recv(timeout=300)
    assert not studio.pages


# One visitor stops all


def test_a_flood_of_slider_values_keeps_nobody_waiting(studio, visitor):
    going = threading.Event()

    def flood():
        with Visitor(studio.addresses[0]) as other:
            uuid = other.control("Age, years")["uuid"]
            number = 0
            with contextlib.suppress(ConnectionClosed):
                while not going.is_set():
                    number += 1
                    other.send({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": float(number % 40)}})

    with flooding(flood, going):
        until(lambda: len(studio.pages) == 2)
        for _ in range(10):
            assert answers(visitor)


@contextlib.contextmanager
def flooding(work, going):
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        going.set()
        thread.join(60)
    assert not thread.is_alive()


def test_clicks_during_a_fit_are_kept_once_and_keep_nobody_waiting(studio, visitor, mesh_file, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def fit(*_):
        begun.set()
        assert go_on.wait(120)
        raise gate.UsageError("never mind.")

    monkeypatch.setattr(studio.shared.worker, "fit", fit)
    page = page_of(studio)
    visitor.upload("Load a mesh", "mine.ply", mesh_file)
    assert begun.wait(60)
    before = page.changes
    for _ in range(40):
        visitor.press("Random face")
        visitor.put("Age, years", 5.0)
    with Visitor(studio.addresses[0]) as other:
        for _ in range(3):
            assert answers(other)
    assert not go_on.is_set()
    go_on.set()
    until(lambda: page.idle and page.changes >= before + 3)
    assert page.changes <= before + 4  # the fit, and each control's last wish


def test_who_leaves_during_a_fit_takes_it_along(studio, mesh_file, monkeypatch):
    """The worker stands still; only its visitor's leaving can end it."""
    with Visitor(studio.addresses[0]) as leaving, Visitor(studio.addresses[0]) as waiting:
        leaving.upload("Load a mesh", "mine.ply", mesh_file)
        until(lambda: leaving.notes)
        process = until(lambda: studio.shared.worker._process)
        os.kill(process.pid, signal.SIGSTOP)
        leaving.upload("Load a mesh", "mine.ply", mesh_file)
        waiting.upload("Load a mesh", "mine.ply", mesh_file)
        leaving.__exit__()
        assert answers(waiting)
        waiting.wait(lambda: "from your mesh on average" in waiting.page)
        assert process.poll() is not None


def test_a_fit_that_takes_too_long_is_ended_and_said(studio, visitor, mesh_file, monkeypatch):
    visitor.upload("Load a mesh", "mine.ply", mesh_file)
    visitor.wait(lambda: "from your mesh on average" in visitor.page)
    monkeypatch.setattr(worker, "READING", 0.3)
    process = studio.shared.worker._process
    os.kill(process.pid, signal.SIGSTOP)
    visitor.upload("Load a mesh", "slow.ply", mesh_file)
    visitor.wait(lambda: any("slow.ply could not be read within" in note for note in visitor.notes))
    assert process.poll() is not None
    monkeypatch.undo()
    visitor.notes.clear()
    visitor.upload("Load a mesh", "mine.ply", mesh_file)  # by a new worker
    until(lambda: page_of(studio).idle)
    assert not [note for note in visitor.notes if "did not work" in note]


BOMBS = {
    "blank.stl": b"solid\n" + b"\n" * 60_000,
    "tiny.obj": b"".join(b"v %d.0e-13 %d.0e-13 0\n" % (i % 40, i // 40) for i in range(1600)) + b"f 1 2 41\n" * 3000,
    "huge.obj": b"v 1e300 0 0\nv 0 1e300 0\nv 0 0 1e300\nf 1 2 3\n" * 30,
    "polygon.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf" + b" 1 2 3" * 200_000 + b"\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_a_sentence_and_keep_nobody_waiting(studio, visitor, name):
    with Visitor(studio.addresses[0]) as other:
        other.control("Seed")
        visitor.upload("Load a mesh", name, BOMBS[name])
        for _ in range(3):
            assert answers(other)
        visitor.wait(lambda: any(f"did not work: {name}" in note for note in visitor.notes))
        assert answers(visitor)


def test_the_worker_has_limited_memory():
    taken = "from meshgan.studio import worker; worker.MEMORY = 2**26; worker._limit_memory(); bytearray(2**32)"
    ended = subprocess.run([sys.executable, "-c", taken], capture_output=True, text=True)
    assert "MemoryError" in ended.stderr


def test_hundreds_of_files_are_made_one_by_one_and_keep_nobody_waiting(studio, visitor):
    with Visitor(studio.addresses[0]) as greedy:
        greedy.control("Picture")
        for _ in range(100):
            greedy.press("Picture", "PNG")
            greedy.press("Mesh", "GLB")
        for _ in range(5):
            assert answers(visitor)
        greedy.wait(lambda: greedy.files.get("face.png") and greedy.files.get("face.glb"))


def test_who_takes_nothing_gets_no_second_file(studio, monkeypatch):
    """A browser that reads nothing does not fill the studio's memory with files."""
    monkeypatch.setattr("meshgan.studio.page.TAKING", 0.5)
    made = []
    monkeypatch.setattr("meshgan.studio.exchange.download", lambda *_: made.append(1) or os.urandom(8 * 2**20))
    address, unheard = (
        studio.addresses[0].replace("http", "ws"),
        {"max_size": None, "max_queue": 1, "ping_interval": None},
    )
    with connect(address, subprotocols=[PROTOCOL], compression=None, close_timeout=1, **unheard) as deaf:
        deaf.send(msgspec.msgpack.encode(CAMERA))
        page = page_of(studio)
        controls = page.gui._gui_input_handle_from_uuid
        pictures = lambda: [uuid for uuid, c in dict(controls).items() if "PNG" in getattr(c, "options", ())]  # noqa: E731
        (group,) = until(pictures)
        for _ in range(30):
            before = page.changes
            deaf.send(msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": group, "updates": {"value": "PNG"}}))
            until(lambda before=before: page.changes > before or page.guest.taking)
        assert 0 < len(made) < 8


# The guard lists what is allowed


def filled(kind):
    """A message of the viewer's protocol with some value in each field."""
    hints = msgspec.structs.fields(kind) if issubclass(kind, msgspec.Struct) else kind.__dataclass_fields__
    return {"type": kind.__name__} | dict.fromkeys(hints, "x" * 1000)


def test_nothing_else_of_the_viewers_protocol_is_heard(studio, visitor, quiet):
    """A form's message was kept for ever, and sent to every newcomer."""
    kept = studio.server._websock_server._broadcast_buffer.message_from_id
    before = len(kept)
    for kind in messages.Message.get_subclasses():
        if kind.__name__ not in ALLOWED:
            visitor.send(filled(kind))
            visitor.send({"type": kind.__name__, "uuid": "x" * 100_000})
    assert answers(visitor)
    assert len(kept) == before


def test_values_that_do_not_fit_their_control_are_not_passed_on(studio, visitor, quiet):
    for control in list(visitor.gui.values()):
        for value in ("x", True, 1e8, -7, "None", b"x", [1], {"a": 1}, None):
            if control["type"] != "GuiTextMessage" and not (control["type"] == "GuiButtonMessage" and value is True):
                visitor.send({"type": "GuiUpdateMessage", "uuid": control["uuid"], "updates": {"value": value}})
    for label in ("Age, years", "Seed", "Random face", "Unit of the file"):  # none of them is for files
        visitor.upload(label, "x.obj", b"v 0 0 0\n")
    assert answers(visitor)


@pytest.mark.parametrize(
    "field",
    [{"fov": float("nan")}, {"image_width": 0}, {"position": [1, 2]}, {"wxyz": "x"}, {"near": -1}, {"fov": 1e9}],
)
def test_no_camera_stands_nowhere(studio, visitor, quiet, field):
    visitor.send(CAMERA | field)
    visitor.press("Picture", "PNG")
    assert answers(visitor)
    assert np.isfinite(page_of(studio).stage.view).all()


# What a model's card says is no HTML


HOSTILE = '<img src=x onerror="document.title=1"> [a](javascript:alert(1)) `x` **b** {{1}} <script>0</script>\n# c'


def test_words_of_a_card_are_shown_as_they_are():
    import html

    shown = plain(HOSTILE)
    assert html.unescape(shown) == HOSTILE.replace("\n", " ")
    assert not set("<>[]()*`\"'{}#_!:/") & set(shown.replace("&#", ""))


def test_a_hostile_card_reaches_the_page_as_words(shared, monkeypatch):
    origin = shared.identity.model.card.origin
    bad = SimpleNamespace(data=HOSTILE, licence=HOSTILE, synthetic=origin.synthetic)
    monkeypatch.setattr(type(shared.identity.model.card), "origin", bad, raising=False)
    card = shared.identity.model.card.model_copy()
    object.__setattr__(card, "origin", bad)
    monkeypatch.setattr(shared.identity.model, "card", card)
    running = Studio(shared, gate.Gate(port=0))
    try:
        with Visitor(running.addresses[0]) as visitor:
            visitor.wait(lambda: "was trained on" in visitor.page)
            assert "<script" not in visitor.page
            assert "<img" not in visitor.page
    finally:
        running.stop()


# Places and doors


def test_of_many_at_once_only_as_many_enter_as_there_are_places(studio, monkeypatch):
    monkeypatch.setattr(gate, "MOST_VISITORS", 4)
    with contextlib.ExitStack() as stack:
        crowd = [Visitor(studio.addresses[0]) for _ in range(16)]
        threads = [threading.Thread(target=stack.enter_context, args=(one,)) for one in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in crowd:
            one.wait(lambda one=one: "/face" in one.scene or "studio is full" in one.page)
        assert sum("/face" in one.scene for one in crowd) == 4 == len(studio.pages)
    with Visitor(studio.addresses[0]) as later:
        until(lambda: len(studio.pages) <= 1)
        assert later


def test_who_says_nothing_takes_no_place(studio, monkeypatch):
    monkeypatch.setattr(gate, "MOST_VISITORS", 2)
    address = studio.addresses[0].replace("http", "ws")
    with contextlib.ExitStack() as stack:
        for _ in range(gate.MOST_WAITING + 10):
            stack.enter_context(connect(address, subprotocols=[PROTOCOL], compression=None))
        visitor = stack.enter_context(Visitor(studio.addresses[0]))
        assert answers(visitor)


def test_who_says_nothing_is_not_waited_for(studio, monkeypatch):
    monkeypatch.setattr(gate, "PATIENCE", 0.3)
    address = studio.addresses[0].replace("http", "ws")
    with connect(address, subprotocols=[PROTOCOL], compression=None) as silent, pytest.raises(ConnectionClosed):
        for _ in range(100):
            silent.recv(timeout=300)


def test_who_gives_no_sign_of_life_is_hung_up_on(studio, monkeypatch):
    """A browser whose machine has gone; its place is another one's."""
    monkeypatch.setattr(wire, "PULSE", 0.2)
    monkeypatch.setattr(wire, "QUIET", 1.0)
    head = f"GET / HTTP/1.1\nHost: localhost\n{UPGRADE}\n\n".replace("\n", "\r\n")
    said = msgspec.msgpack.encode(CAMERA)
    frame = b"\x82\xfe" + len(said).to_bytes(2, "big") + b"\0\0\0\0" + said
    with socket.create_connection(("127.0.0.1", studio.port), timeout=300) as gone:
        gone.sendall(head.encode() + frame)
        until(lambda: studio.pages)
        until(lambda: not studio.pages)
    with Visitor(studio.addresses[0]) as visitor:  # one that lives stays, though it says nothing
        visitor.control("Seed")
        time.sleep(2.5)
        assert answers(visitor)


@pytest.fixture(scope="module")
def public(shared):
    running = Studio(shared, gate.Gate("0.0.0.0", 0))
    yield running
    running.stop()


def test_slow_connections_do_not_close_the_gate(public):
    slow = []
    try:
        for _ in range(gate.MOST_STRANGERS + 40):
            slow.append(socket.create_connection(("127.0.0.1", public.port), timeout=300))
            slow[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        headers = {"Cookie": f"{COOKIE}={public.token}", "Origin": f"http://127.0.0.1:{public.port}"}
        with Visitor(f"http://127.0.0.1:{public.port}", headers) as visitor:
            assert answers(visitor)
    finally:
        for line in slow:
            line.close()


COOKIES = ['{"a": 1}', "n=Jürgen", "a=b; c", "=;;=", 'x="a;b"', "_xsrf=2|8b; username-8888=" + "y" * 30_000, "\x01=2"]


@pytest.mark.parametrize("cookies", COOKIES)
def test_cookies_of_other_programs_lock_nobody_out(public, cookies):
    for order in (f"{cookies}; {COOKIE}-1={public.token}", f"{COOKIE}-1={public.token}; {cookies}"):
        assert " 200 " in asked(public, f"GET / HTTP/1.1\nHost: x\nCookie: {order}")
    assert " 403 " in asked(public, f"GET / HTTP/1.1\nHost: x\nCookie: {cookies}")


def test_two_studios_on_one_host_do_not_throw_each_other_out(public, shared):
    """Browsers keep one set of cookies for all ports of a host."""
    other = Studio(shared, gate.Gate("0.0.0.0", 0))
    try:
        jar = {}
        for one in (public, other, public):
            kept = "; ".join(f"{name}={value}" for name, value in jar.items())
            with socket.create_connection(("127.0.0.1", one.port), timeout=300) as line:
                line.sendall(f"GET /?token={one.token} HTTP/1.1\r\nHost: x\r\nCookie: {kept}\r\n\r\n".encode())
                answer = line.makefile("rb").read().decode()
            name, _, value = answer.partition("Set-Cookie: ")[2].partition(";")[0].partition("=")
            jar[name] = value
        kept = "; ".join(f"{name}={value}" for name, value in jar.items())
        for one in (public, other):
            assert " 200 " in asked(one, f"GET / HTTP/1.1\nHost: x\nCookie: {kept}")
    finally:
        other.stop()


# Malformed frames


FRAMES = {
    "nothing": b"",
    "no map": b"\x90" * 50,
    "no msgpack": b"\xc1\xff",
    "cut off": msgspec.msgpack.encode(CAMERA)[:-3],
    "no type": msgspec.msgpack.encode({"a": 1}),
    "strange type": msgspec.msgpack.encode({"type": ["GuiUpdateMessage"]}),
    "unknown": msgspec.msgpack.encode({"type": "NoSuchMessage"}),
    "fields missing": msgspec.msgpack.encode({"type": "GuiUpdateMessage"}),
    "fields too many": msgspec.msgpack.encode(CAMERA | {"hello": 1}),
    "deep": b"\x81\xa4type" + b"\x91" * 100_000,
    "text": "hello",
}


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_malformed_messages_cost_no_traceback(studio, visitor, quiet, data):
    with Visitor(studio.addresses[0]) as hostile:
        hostile.control("Seed")
        with contextlib.suppress(ConnectionClosed):
            for _ in range(5):
                hostile.socket.send(data)
    assert answers(visitor)


RAW = [
    b"\xff" * 100,
    b"\x82\x05hello",
    b"\x82\xff" + b"\x7f" * 8,
    b"\x80\x80\0\0\0\0",
    b"\x88\x81\0\0\0\0x",
    b"\x89\xfe\xff",
    b"",
]


@pytest.mark.parametrize("data", RAW)
def test_malformed_frames_cost_no_traceback(studio, visitor, quiet, data):
    head = f"GET / HTTP/1.1\nHost: localhost\n{UPGRADE}\n\n".replace("\n", "\r\n")
    with socket.create_connection(("127.0.0.1", studio.port), timeout=300) as line:
        line.sendall(head.encode())
        assert b" 101 " in line.recv(100)
        line.sendall(data)
    assert answers(visitor)


def test_a_page_of_an_older_viewer_is_told_so(studio, quiet):
    with connect(studio.addresses[0].replace("http", "ws"), subprotocols=["viser-v0.0.1"], compression=None) as old:
        with pytest.raises(ConnectionClosed) as closed:
            old.recv(timeout=300)
        assert closed.value.rcvd.code == 1002


@pytest.mark.parametrize("host", ["", " ", "\t"])
def test_no_host_is_not_every_network(pair, host):
    with pytest.raises(gate.UsageError, match="`host` is empty"):
        Studio(Shared(*pair), gate.Gate(host, 0))
