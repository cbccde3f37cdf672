"""The studio as a server: a page for every visitor, and nothing left of them when they go."""

import contextlib
import io
import secrets
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import viser
from viser import _messages as messages

from meshgan.errors import UsageError
from meshgan.studio.controls import build
from meshgan.studio.gate import PASS, Gate, Guest, is_loopback
from meshgan.studio.guard import Start
from meshgan.studio.page import Page, Shared
from meshgan.studio.stage import dress

ACCENT = (66, 99, 128)
LOCAL = "127.0.0.1"
TRIES = 100  # ports from the wanted one
STANDARD = {"http": 80, "https": 443}


class Studio:
    """Runs from construction until `stop`; `pages` holds one page for each browser that is there.

    On this machine alone (a loopback `host`) everybody may enter; anywhere else, or `behind` a proxy at that address,
    `token` opens the door. Raises `UsageError` if the address cannot be had; a taken port of this machine moves on to
    the next one.
    """

    def __init__(self, shared: Shared, host: str = LOCAL, port: int = 8080, behind: str = "") -> None:
        if not host.strip():
            raise UsageError("`host` is empty, which would mean every network; give an address, or leave it out.")
        self.shared, self.host, self.behind = shared, host.strip(), public_address(behind) if behind else ""
        self.pages: dict[int, Page] = {}
        self._guests: dict[int, Guest] = {}
        self.token = "" if is_loopback(self.host) and not behind else secrets.token_urlsafe(16)
        with _quiet():
            self.server = viser.ViserServer(LOCAL, 0, label="meshgan studio", verbose=False)
        self.loop = self.server.get_event_loop()
        gui = self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="large", brand_color=ACCENT)
        gui.main_panel.dock_right()
        dress(self.server, shared.identity)
        self.server._websock_server.on_client_connect(self._arrived)
        self.server.on_client_connect(self._welcome)
        self.server.on_client_disconnect(self._farewell)
        self.server._websock_server.on_client_disconnect(self._left)
        self._gate: Gate | None = None
        try:
            tries = TRIES if is_loopback(self.host) else 1
            self._gate = Gate(self.host, port, self.server.get_port(), self.token, self.behind, tries)
        except BaseException:
            self.stop()
            raise
        self.port = self._gate.port

    @property
    def addresses(self) -> list[str]:
        """What to type into a browser: what others see, on this machine, and on others of the network."""
        everywhere = self.host in ("0.0.0.0", "::")
        hosts = [LOCAL, _own_address()] if everywhere else [f"[{self.host}]" if ":" in self.host else self.host]
        known = [f"http://{host}:{self.port}" for host in hosts]
        if not self.token:
            return known
        outside = [self.behind + ("index.html" if urlsplit(self.behind).path != "/" else "")] if self.behind else []
        return [f"{address}?token={self.token}" for address in (*outside, *(f"{address}/" for address in known))]

    async def _arrived(self, connection: viser.infra.WebsockClientConnection) -> None:
        """Hang up on who has not come through the gate; and let a visitor leave while we write, without a warning.

        Nothing public tells who a connection is from, nor ends one.
        """
        number = connection.client_id
        live: Any = self.server._websock_server._live_connections[number]
        guest = self._gate.guest(live.request.headers.get(PASS)) if self._gate else None
        if guest is None:
            await live.close()
            return
        self._guests[number] = guest
        connection.get_message_buffer()._sanctioned_dead_writes += 1

    async def _welcome(self, client: viser.ClientHandle) -> None:
        guest = self._guests.get(client.client_id)
        if guest is None:
            return
        if not guest.placed:
            client.gui.add_markdown("**The studio is full.** This page enters by itself when somebody has left.")
            return
        controls = client.gui._gui_input_handle_from_uuid  # no public name leads from a number to its control

        def refuse(sentence: str, start: Start) -> None:
            self.loop.call_soon_threadsafe(self._refuse, client, sentence, start)

        guest.guard.open(controls.get, refuse)
        self.pages[client.client_id] = Page(client, self.loop, self.shared, guest, build)

    async def _farewell(self, client: viser.ClientHandle) -> None:
        page = self.pages.pop(client.client_id, None)
        if page is not None:
            page.close()

    async def _left(self, connection: viser.infra.WebsockClientConnection) -> None:
        self._guests.pop(connection.client_id, None)

    def _refuse(self, client: viser.ClientHandle, sentence: str, start: Start) -> None:
        """Say that a file may not be, and that its upload is over, or the browser's button would stay locked."""
        size = start.size_bytes
        over = messages.FileTransferPartAck(start.source_component_uuid, start.transfer_uuid, size, size)
        client.gui._websock_interface.queue_message(over)
        page = self.pages.get(client.client_id)
        if page is not None:
            page.say(sentence)

    def stop(self) -> None:
        """Disconnect everybody and free the port."""
        for page in list(self.pages.values()):
            page.close()  # what is still being done for them need not succeed
        if self._gate is not None:
            self._gate.stop()
        self.shared.worker.close()
        with _quiet():
            self.server.stop()


def public_address(text: str) -> str:
    """An address that browsers see, as they write it, with a slash at its end. Raises `UsageError` if it is none."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in STANDARD or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise UsageError(
            f"`behind={text!r}` is no address; give what browsers see, as https://faces.example.org/studio/."
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = name if port in (None, STANDARD[parts.scheme]) else f"{name}:{port}"
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}/"


def _own_address() -> str:
    """This machine's address in its network. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # an address that is reserved for documentation
        return str(probe.getsockname()[0])
    return socket.gethostname()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The viewer announces itself; the studio prints its own address."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
