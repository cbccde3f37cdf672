"""A visitor without a browser: speaks the viewer's protocol, presses controls, and sees what the page shows."""

import threading
import time
import uuid

import msgspec
import numpy as np
import viser
import zstandard
from websockets.sync.client import connect

from meshgan.bench.studio import CAMERA


class Visitor:
    """Connects on entering and leaves on exiting a `with` block."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self.address, self.headers = address.replace("http", "ws", 1), headers
        self.gui: dict[str, dict] = {}  # uuid: type, props, value
        self.scene: dict[str, dict] = {}  # name: props
        self.notes: list[str] = []
        self.files: dict[str, bytes] = {}
        self._names: dict[str, str] = {}
        self._wire: list[dict] = []
        self._changed = threading.Condition()

    def __enter__(self) -> "Visitor":
        protocol = f"viser-v{viser.__version__}"
        self.socket = connect(
            self.address, subprotocols=[protocol], additional_headers=self.headers, compression=None, max_size=None
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.send(CAMERA)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._thread.join(5)

    def send(self, message: dict) -> None:
        self.socket.send(msgspec.msgpack.encode(message))

    def _listen(self) -> None:
        try:
            for data in self.socket:
                with self._changed:
                    for message in unpack(data):
                        self._take(message)
                    self._changed.notify_all()
        except Exception:  # the connection has ended
            with self._changed:
                self._changed.notify_all()

    def _take(self, message: dict) -> None:
        kind = message["type"]
        if kind == "GuiUpdateMessage" and message["uuid"] in self.gui:
            control = self.gui[message["uuid"]]
            for name, value in message["updates"].items():
                (control if name == "value" else control["props"])[name] = value
        elif kind.startswith("Gui") and "props" in message and "uuid" in message:
            self.gui[message["uuid"]] = message
        elif kind == "SceneNodeUpdateMessage" and message["name"] in self.scene:
            self.scene[message["name"]] |= message["updates"]
        elif kind == "SetSceneNodeVisibilityMessage" and message["name"] in self.scene:
            self.scene[message["name"]]["visible"] = message["visible"]
        elif kind == "RemoveSceneNodeMessage":
            self.scene.pop(message["name"], None)
        elif kind == "NotificationShowMessage" or kind == "NotificationMessage":
            self.notes.append(f"{message['props']['title']}: {message['props']['body']}")
        elif kind == "FileTransferStartDownload":
            self._names[message["transfer_uuid"]] = message["filename"]
            self.files[message["filename"]] = b""
        elif kind == "FileTransferPart":
            self.files[self._names[message["transfer_uuid"]]] += message["content"]
        elif "name" in message and "props" in message:
            self.scene[message["name"]] = dict(message["props"])

    def wait(self, condition, seconds: float = 300.0):
        """Wait until `condition()` is true; returns its value."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (value := condition()):
                left = deadline - time.monotonic()
                assert left > 0, f"the page never got there; notes: {self.notes}"
                self._changed.wait(left)
        return value

    def control(self, label: str) -> dict:
        """The control with this label."""
        found = lambda: next((c for c in self.gui.values() if c["props"].get("label") == label), None)  # noqa: E731
        return self.wait(found)

    def press(self, label: str, option: str | None = None) -> None:
        """Click a button, or one `option` of a row of buttons."""
        self.put(label, True if option is None else option)

    def put(self, label: str, value: object) -> None:
        """Give a control a value."""
        self.send({"type": "GuiUpdateMessage", "uuid": self.control(label)["uuid"], "updates": {"value": value}})

    def upload(self, label: str, name: str, content: bytes, size: int | None = None, part: int = 2**19) -> str:
        """Send a file, by default of the size that it has."""
        transfer, button = str(uuid.uuid4()), self.control(label)["uuid"]
        parts = [content[start : start + part] for start in range(0, len(content), part)]
        start = {"type": "FileTransferStartUpload", "source_component_uuid": button, "transfer_uuid": transfer}
        size = len(content) if size is None else size
        self.send(start | {"filename": name, "mime_type": "", "part_count": len(parts), "size_bytes": size})
        for index, data in enumerate(parts):
            head = {"type": "FileTransferPart", "source_component_uuid": button, "transfer_uuid": transfer}
            self.send(head | {"part_index": index, "content": data})
        return transfer

    @property
    def page(self) -> str:
        """All HTML and Markdown on the page."""
        with self._changed:
            return "\n".join(c["props"].get("content") or c["props"].get("_markdown") or "" for c in self.gui.values())

    @property
    def face(self) -> np.ndarray:
        """The vertices (V, 3) on show."""
        self.wait(lambda: "/face" in self.scene)
        with self._changed:
            return self.scene["/face"]["vertices"].copy()


def until(condition, seconds: float = 300.0):
    """Wait until `condition()` is true; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def unpack(data: bytes) -> list[dict]:
    """The messages of one window: two sizes, compressed msgpack, then the arrays that it refers to."""
    packed = int.from_bytes(data[8:16], "little")
    inner = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[16 : 16 + packed]))
    arrays, place = [], 16 + packed
    for length in inner["binaryBufferLengths"]:
        place += -place % 8
        arrays.append(data[place : place + length])
        place += length
    return [_filled(message, arrays) for message in inner["messages"]]


def _filled(value, arrays):
    if isinstance(value, dict) and "__binary_index" in value:
        raw, kind = arrays[value["__binary_index"]], value.get("dtype")
        return np.frombuffer(raw, np.dtype(kind)).reshape(-1, 3) if kind else raw
    if isinstance(value, dict):
        return {key: _filled(item, arrays) for key, item in value.items()}
    return [_filled(item, arrays) for item in value] if isinstance(value, list | tuple) else value
