"""The gate: no token, no studio."""

import http.client
import socket

import pytest

pytest.importorskip("viser", reason="needs the extra studio")

import websockets.exceptions

from meshgan.errors import UsageError
from meshgan.studio.gate import Gate, public_address
from meshgan.studio.guard import PROTOCOL
from meshgan.studio.server import Studio
from meshgan.studio.wire import COOKIE
from visitor import Visitor


@pytest.fixture(scope="module")
def studio(shared):
    running = Studio(shared, Gate("0.0.0.0", 0))
    yield running
    running.stop()


def get(studio, target, **headers):
    """Status, headers and body of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=300)
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
    other = Studio(shared, Gate("0.0.0.0", 0))
    other.stop()
    assert other.token != studio.token


@pytest.mark.parametrize(
    "data",
    [b"\r\n\r\n", b"hello\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"x" * 100_000, b"GET / HTTP/1.1\r\n" + b"a" * 80_000],
)
def test_noise_is_hung_up_on(studio, data):
    with socket.create_connection(("127.0.0.1", studio.port), timeout=300) as noise:
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
    with socket.create_connection(("127.0.0.1", studio.port), timeout=300) as silent:
        assert silent.recv(10) == b""


def test_a_port_that_is_taken_is_said(studio):
    with pytest.raises(UsageError, match=rf"{studio.port}.*choose another `port`"):
        Gate("0.0.0.0", studio.port)


def test_stopping_closes_open_connections(shared):
    running = Studio(shared, Gate("0.0.0.0", 0))
    headers = {"Cookie": f"{COOKIE}={running.token}", "Origin": f"http://127.0.0.1:{running.port}"}
    with Visitor(f"http://127.0.0.1:{running.port}", headers) as visitor:
        visitor.control("Random face")
        running.stop()
        visitor._thread.join(10)
        assert not visitor._thread.is_alive()
    assert not running._gate._thread.is_alive()


def test_who_comes_while_models_are_loaded_is_told_so_and_then_let_in(shared):
    gate = Gate(port=0)
    try:
        status, answer, body = get(gate, "/")
        assert (status, answer["Refresh"]) == (200, "1")
        assert b"Loading the models" in body
        running = Studio(shared, gate)
        status, answer, body = get(gate, "/")
        assert status == 200
        assert "Refresh" not in answer
        assert b"Loading the models" not in body
        running.stop()
    finally:
        gate.stop()


# Behind a proxy

OUTSIDE = "https://faces.example.org"


@pytest.fixture(scope="module")
def proxied(shared):
    running = Studio(shared, Gate("127.0.0.1", 0, behind=f"{OUTSIDE}:443/studio"))
    yield running
    running.stop()


def upgraded(studio, target="/", **headers):
    """The first line of the answer to a WebSocket's request, as a proxy passes it on."""
    handshake = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": PROTOCOL,
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers | handshake).items())
    with socket.create_connection(("127.0.0.1", studio.port), timeout=300) as line:
        line.sendall(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
        return line.makefile("rb").readline().decode().split(" ", 2)[1]


def test_behind_a_proxy_the_address_is_the_one_that_browsers_see(proxied):
    assert proxied.addresses == [
        f"{OUTSIDE}/studio/index.html?token={proxied.token}",
        f"http://127.0.0.1:{proxied.port}/?token={proxied.token}",
    ]


@pytest.mark.parametrize("path", ["/studio/", "/"])
def test_a_path_before_the_studio_is_kept_whether_or_not_the_proxy_takes_it_off(proxied, path):
    status, answer, _ = get(proxied, f"{path}?token={proxied.token}", Host="faces.example.org")
    assert (status, answer["Location"]) == (303, "index.html")  # where the viewer's WebSocket stays below the path
    cookie = answer["Set-Cookie"]
    assert "Secure" in cookie
    assert "Path" not in cookie  # so it is the browser's own
    kept = cookie.split(";")[0]
    status, answer, body = get(proxied, f"{path}index.html", Cookie=kept)
    assert status == 200
    assert b"<html" in body
    status, answer, _ = get(proxied, path, Cookie=kept)
    assert (status, answer["Location"]) == (303, "index.html")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "faces.example.org", "upstream"])
@pytest.mark.parametrize("target", ["/", "/studio/index.html"])
def test_websockets_come_through_whatever_host_the_proxy_names(proxied, host, target):
    headers = {"Host": host, "Cookie": f"{COOKIE}={proxied.token}"}
    assert upgraded(proxied, target, Origin=OUTSIDE, **headers) == "101"
    for origin in (
        "https://evil.example",
        "http://faces.example.org",
        f"{OUTSIDE}.evil.example",
        "https://sub.example.org",
    ):
        assert upgraded(proxied, target, Origin=origin, **headers) == "403"
    assert upgraded(proxied, target, Origin=OUTSIDE, Host=host) == "403"


def test_what_a_proxy_says_of_itself_is_not_believed(studio, shared):
    headers = {"Host": f"127.0.0.1:{studio.port}", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    headers |= {"Cookie": f"{COOKIE}={studio.token}", "Forwarded": "host=evil.example"}
    assert upgraded(studio, Origin="http://evil.example", **headers) == "403"


def test_a_proxy_that_was_not_told_of_works_behind_the_token(studio):
    """nginx names us, not itself, as host; over TLS only, where the cookie is shown to its own site alone."""
    headers = {"Host": "127.0.0.1:8080", "Cookie": f"{COOKIE}={studio.token}"}
    assert upgraded(studio, Origin=OUTSIDE, **headers) == "101"
    assert upgraded(studio, Origin="http://faces.example.org", **headers) == "403"


def test_who_may_be_the_owners_proxy_is_told_of_once(shared, capfd):
    running = Studio(shared, Gate(port=0))
    try:
        for _ in range(3):
            assert upgraded(running, Origin=OUTSIDE, Host=f"127.0.0.1:{running.port}") == "403"
    finally:
        running.stop()
    assert capfd.readouterr().err.count(f"--behind {OUTSIDE}/") == 1


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://a.b/", "https://a.b/"),
        (" HTTP://A.b:80 ", "http://a.b/"),
        ("https://a.b:8443/x/y", "https://a.b:8443/x/y/"),
        ("http://[::1]:80/x", "http://[::1]/x/"),
    ],
)
def test_public_addresses_are_written_as_browsers_do(given, address):
    assert public_address(given) == address


@pytest.mark.parametrize(
    "given",
    ["a.b", "ftp://a.b", "https://", "https://a.b/?x", "https://u:p@a.b/", "https://[", "//a.b", "https://a:x/"],
)
def test_what_is_no_public_address_is_said_so(given):
    with pytest.raises(UsageError, match="`behind="):
        public_address(given)


def test_an_address_of_ipv6_has_brackets(shared):
    try:
        running = Studio(shared, Gate("::1", 0))
    except UsageError:
        pytest.skip("this machine has no IPv6")
    running.stop()
    assert running.addresses == [f"http://[::1]:{running.port}"]
