"""The gate: no token, no studio."""

import http.client
import socket

import pytest

pytest.importorskip("viser", reason="needs the extra studio")

import websockets.exceptions

from meshgan.errors import UsageError
from meshgan.studio.gate import COOKIE, Gate
from meshgan.studio.server import Studio
from visitor import Visitor


@pytest.fixture(scope="module")
def studio(shared):
    running = Studio(shared, "0.0.0.0", 0)
    yield running
    running.stop()


def get(studio, target, **headers):
    """Status, headers and body of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=10)
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


def test_without_the_token_there_is_only_the_question_for_it(studio):
    for target, headers in (
        ("/", {}),
        ("/index.html", {}),
        ("/?token=wrong", {}),
        ("/?token=", {}),
        ("/?token=%C3%A9", {}),
        ("/", {"Cookie": f"{COOKIE}=wrong"}),
        ("/", {"Cookie": f"other={studio.token}"}),
    ):
        status, answer, body = get(studio, target, **headers)
        assert status == 403
        assert b"asks for its token" in body
        assert "Set-Cookie" not in answer
        assert b"viser" not in body


def test_the_token_buys_a_cookie_and_the_cookie_the_page(studio):
    status, answer, _ = get(studio, f"/?token={studio.token}")
    assert (status, answer["Location"]) == (303, "./")
    cookie = answer["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    status, _, body = get(studio, "/", Cookie=cookie.split(";")[0])
    assert status == 200
    assert b"<html" in body
    assert studio.token not in body.decode()


def test_a_visitor_with_the_cookie_works_as_usual(studio):
    headers = {"Cookie": f"{COOKIE}={studio.token}", "Origin": f"http://127.0.0.1:{studio.port}"}
    with Visitor(f"http://127.0.0.1:{studio.port}", headers) as visitor:
        before = visitor.face
        visitor.press("Random face")
        visitor.wait(lambda: not (visitor.scene["/face"]["vertices"] == before).all())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Cookie": f"{COOKIE}=wrong"},
        {"Cookie": "{cookie}", "Origin": "http://evil.example"},
        {"Cookie": "{cookie}"},
    ],
)
def test_a_websocket_needs_the_cookie_and_our_own_page(studio, headers):
    filled = {name: value.replace("{cookie}", f"{COOKIE}={studio.token}") for name, value in headers.items()}
    with pytest.raises(websockets.exceptions.InvalidStatus), Visitor(f"http://127.0.0.1:{studio.port}", filled):
        pass


def test_the_viewer_itself_listens_on_this_machine_alone(studio):
    assert studio.server.get_host() == "127.0.0.1"
    assert studio.server.get_port() != studio.port


def test_addresses_hold_the_token(studio):
    assert len(studio.token) >= 20
    assert all(address.endswith(f":{studio.port}/?token={studio.token}") for address in studio.addresses)


def test_each_studio_has_a_token_of_its_own(shared, studio):
    other = Studio(shared, "0.0.0.0", 0)
    other.stop()
    assert other.token != studio.token


@pytest.mark.parametrize(
    "data",
    [b"\r\n\r\n", b"hello\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"x" * 100_000, b"GET / HTTP/1.1\r\n" + b"a" * 80_000],
)
def test_noise_is_hung_up_on(studio, data):
    with socket.create_connection(("127.0.0.1", studio.port), timeout=10) as noise:
        noise.sendall(data)
        received = b""
        try:
            while part := noise.recv(1000):
                received += part
        except ConnectionError:
            pass
        assert b"200 OK" not in received
    assert get(studio, "/")[0] == 403


def test_who_says_nothing_is_not_waited_for(monkeypatch, studio):
    monkeypatch.setattr("meshgan.studio.gate.PATIENCE", 0.2)
    with socket.create_connection(("127.0.0.1", studio.port), timeout=10) as silent:
        assert silent.recv(10) == b""


def test_a_port_that_is_taken_is_said(studio):
    with pytest.raises(UsageError, match=rf"{studio.port}.*choose another --port"):
        Gate("0.0.0.0", studio.port, 1, "token")


def test_stopping_closes_open_connections(shared):
    running = Studio(shared, "0.0.0.0", 0)
    headers = {"Cookie": f"{COOKIE}={running.token}", "Origin": f"http://127.0.0.1:{running.port}"}
    with Visitor(f"http://127.0.0.1:{running.port}", headers) as visitor:
        visitor.control("Random face")
        running.stop()
        visitor._thread.join(10)
        assert not visitor._thread.is_alive()
    assert not running._gate._thread.is_alive()
