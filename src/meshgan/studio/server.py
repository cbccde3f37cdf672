"""The studio as a server: a page for every visitor, and nothing left of them when they go."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import viser
from viser import _messages as messages

from meshgan.studio.controls import build
from meshgan.studio.gate import LOCAL, PASS, Gate, Guest
from meshgan.studio.guard import Start
from meshgan.studio.page import Page, Shared
from meshgan.studio.stage import dress

ACCENT = (66, 99, 128)


class Studio:
    """Runs from construction until `stop`; `pages` holds one page for each browser that is there.

    Visitors come through the `gate`, which says where it listens, and who may enter; it is closed with the studio.
    """

    def __init__(self, shared: Shared, gate: Gate) -> None:
        self.shared = shared
        self.pages: dict[int, Page] = {}
        self._guests: dict[int, Guest] = {}
        self._gate = gate
        self.port, self.token, self.addresses = self._gate.port, self._gate.token, self._gate.addresses
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
        self._gate.lead_to(self.server.get_port())

    async def _arrived(self, connection: viser.infra.WebsockClientConnection) -> None:
        """Hang up on who has not come through the gate; and let a visitor leave while we write, without a warning.

        Nothing public tells who a connection is from, nor ends one.
        """
        number = connection.client_id
        live: Any = self.server._websock_server._live_connections[number]
        guest = self._gate.guest(live.request.headers.get(PASS))
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
        self._gate.stop()
        self.shared.worker.close()
        with _quiet():
            self.server.stop()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The viewer announces itself; the studio prints its own address."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
