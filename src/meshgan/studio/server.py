"""The studio as a server: a page for every visitor, and nothing left of them when they go."""

import contextlib
import io
import ipaddress
import secrets
import socket
from collections.abc import Iterator

import viser

from meshgan.studio.controls import build
from meshgan.studio.gate import Gate
from meshgan.studio.guard import Guard
from meshgan.studio.page import Page
from meshgan.studio.shared import Shared
from meshgan.studio.stage import dress

MOST_VISITORS = 32
ACCENT = (66, 99, 128)
LOCAL = "127.0.0.1"


class Studio:
    """Runs from construction until `stop`; `pages` holds one page for each browser that is there.

    On this machine alone (a loopback `host`) everybody may enter; anywhere else, `token` opens the door. Raises
    `UsageError` if the address cannot be had; a taken port of this machine moves on to the next one.
    """

    def __init__(self, shared: Shared, host: str = LOCAL, port: int = 8080) -> None:
        self.shared, self.host = shared, host
        self.pages: dict[int, Page] = {}
        self.token = "" if is_loopback(host) else secrets.token_urlsafe(16)
        with _quiet():
            place = (LOCAL, 0) if self.token else (host, port)
            self.server = viser.ViserServer(*place, label="meshgan studio", verbose=False)
        self._gate: Gate | None = None
        self._open(port)
        Guard(self.server, self._refuse)
        gui = self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="large", brand_color=ACCENT)
        gui.main_panel.dock_right()
        dress(self.server, shared.identity)
        self.server.on_client_connect(self._welcome)
        self.server.on_client_disconnect(self._farewell)

    def _open(self, port: int) -> None:
        """Put the gate before a studio that is open to a network."""
        self.port = self.server.get_port()
        if self.token:
            try:
                self._gate = Gate(self.host, port, self.port, self.token)
            except Exception:
                self.stop()
                raise
            self.port = self._gate.port

    @property
    def addresses(self) -> list[str]:
        """What to type into a browser: on this machine, and on others of the network."""
        if not self.token:
            return [f"http://{self.host}:{self.port}"]
        everywhere = self.host in ("0.0.0.0", "::")
        hosts = [LOCAL, _own_address()] if everywhere else [self.host]
        return [f"http://{host}:{self.port}/?token={self.token}" for host in hosts]

    def _welcome(self, client: viser.ClientHandle) -> None:
        if len(self.pages) >= MOST_VISITORS:
            client.gui.add_markdown("The studio is full. Please come back later.")
            return
        page = self.pages[client.client_id] = Page(client, self.server.get_event_loop(), self.shared)
        page.attempt(lambda: build(page))
        if client.client_id not in self.server.get_clients():  # gone already, perhaps before we knew them
            self._farewell(client)

    def _farewell(self, client: viser.ClientHandle) -> None:
        page = self.pages.pop(client.client_id, None)
        if page is not None:
            page.close()

    def _refuse(self, visitor: int, sentence: str) -> None:
        if visitor in self.pages:
            self.pages[visitor].say(sentence)

    def stop(self) -> None:
        """Disconnect everybody and free the port."""
        for page in list(self.pages.values()):
            page.closed = True  # what is still being done for them need not succeed
        if self._gate is not None:
            self._gate.stop()
        with _quiet():
            self.server.stop()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
