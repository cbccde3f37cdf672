"""What a browser may send. The viewer trusts its visitors; a studio on a network cannot.

Every message passes here before the viewer's own handlers see it (the server's handlers run before a client's). What
is not allowed is emptied, so that it names a control or a transfer that does not exist, and is then ignored. This
leans on a few names inside viser that are not public; tests/studio/test_guard.py notices when they change.
"""

import math
from collections.abc import Callable

import viser
from viser import _messages as messages

from meshgan.studio.uploads import MOST_BYTES

MOST_MESSAGE = 4 * 2**20  # bytes; browsers send files in parts of half a MiB
MOST_TEXT = 10_000  # characters of a control's value
NOWHERE = ""

Refuse = Callable[[int, str], None]


class Guard:
    """One upload at a time for each visitor, of at most `MOST_BYTES`, and no value but a small one.

    `refuse` is called with the visitor's number and a sentence.
    """

    def __init__(self, server: viser.ViserServer, refuse: Refuse) -> None:
        self._server, self._refuse = server, refuse
        self._received: dict[int, tuple[str, int]] = {}  # visitor: the transfer and its bytes so far
        socket = server._websock_server
        socket.on_client_connect(self._arrived)
        socket.on_client_disconnect(self._left)
        socket.register_handler(messages.FileTransferStartUpload, self._start)
        socket.register_handler(messages.FileTransferPart, self._part)
        socket.register_handler(messages.GuiUpdateMessage, self._update)
        for tunnel in (messages.ShareUrlRequest, messages.ShareUrlDisconnect):
            socket.unregister_handler(tunnel)  # a visitor shall not open the studio to the world

    def _arrived(self, connection: viser.infra.WebsockClientConnection) -> None:
        """Limit the size of messages; and let a visitor leave while their page is built, without a warning of it."""
        self._server._websock_server._live_connections[connection.client_id].protocol.max_message_size = MOST_MESSAGE
        connection.get_message_buffer()._sanctioned_dead_writes += 1

    def _left(self, connection: viser.infra.WebsockClientConnection) -> None:
        self._received.pop(connection.client_id, None)

    def _start(self, client: int, message: messages.FileTransferStartUpload) -> None:
        self._forget(client)
        if 0 <= message.size_bytes <= MOST_BYTES and 0 <= message.part_count <= 1 + message.size_bytes:
            self._received[client] = (message.transfer_uuid, 0)
            return
        self._release_button(client, message)
        message.source_component_uuid = NOWHERE
        self._refuse(client, f"This file is larger than {MOST_BYTES // 2**20} MB; reduce it first.")

    def _part(self, client: int, message: messages.FileTransferPart) -> None:
        transfer, received = self._received.get(client, (NOWHERE, 0))
        received += len(message.content)
        if message.transfer_uuid != transfer or received > MOST_BYTES:
            message.transfer_uuid = NOWHERE
            return
        self._received[client] = (transfer, received)

    def _forget(self, client: int) -> None:
        """Drop an upload that has not ended, before another one begins."""
        handle = self._server.get_clients().get(client)
        if handle is not None:
            handle.gui._drop_uploads_from_client(viser.infra.ClientId(client))

    def _release_button(self, client: int, message: messages.FileTransferStartUpload) -> None:
        """Tell the browser that the upload is over, or its button would stay locked."""
        handle = self._server.get_clients().get(client)
        if handle is not None:
            size = message.size_bytes
            over = messages.FileTransferPartAck(message.source_component_uuid, message.transfer_uuid, size, size)
            handle.gui._websock_interface.queue_message(over)

    def _update(self, client: int, message: messages.GuiUpdateMessage) -> None:
        if set(message.updates) != {"value"} or not _small(message.updates["value"]):
            message.uuid, message.updates = NOWHERE, {}


def _small(value: object) -> bool:
    """Whether a control may have this value."""
    if isinstance(value, str):
        return len(value) <= MOST_TEXT
    return isinstance(value, bool | int | float) and math.isfinite(value) and abs(value) < 1e9
