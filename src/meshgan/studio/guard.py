"""What a browser may say. The viewer trusts its visitors; a studio on a network cannot.

Every message is read here before the viewer gets it, and only what the studio's own page says is passed on: where its
camera stands, a value for a control of this visitor's page that fits that control, a click on a face, a file for the
upload button. Each is a type below with the range of its fields; whatever else there is in the viewer's protocol,
today or tomorrow, is passed over. The viewer is pinned to the version that this was written for.
"""

import threading
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import msgspec
import viser
from msgspec import Meta, Struct

PROTOCOL: Any = f"viser-v{viser.__version__}"
MOST_BYTES = 64 * 2**20  # of a file that comes in
MOST_TOGETHER = 4 * MOST_BYTES  # of the files of all visitors at a time

Name: TypeAlias = Annotated[str, Meta(max_length=300)]
Text: TypeAlias = Annotated[str, Meta(max_length=10_000)]
Number: TypeAlias = Annotated[float, Meta(ge=-1e9, le=1e9)]
Angle: TypeAlias = Annotated[float, Meta(gt=0.0, lt=3.2)]
Length: TypeAlias = Annotated[float, Meta(gt=0.0, le=1e9)]
Pixels: TypeAlias = Annotated[int, Meta(ge=1, le=100_000)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31)]
Point: TypeAlias = tuple[Number, Number, Number]


class Camera(Struct, tag_field="type", tag="ViewerCameraMessage"):
    wxyz: tuple[Number, Number, Number, Number]
    position: Point
    fov: Angle
    near: Length
    far: Length
    image_height: Pixels
    image_width: Pixels
    look_at: Point
    up_direction: Point


class Value(Struct, forbid_unknown_fields=True):
    value: bool | Number | Text


class Update(Struct, tag_field="type", tag="GuiUpdateMessage"):
    uuid: Name
    updates: Value


class Click(Struct, tag_field="type", tag="SceneNodeClickMessage"):
    name: Name
    ray_origin: Point
    ray_direction: Point
    screen_pos: tuple[Number, Number]
    owner: Name
    instance_index: Count | None = None
    modifier: Name | None = None


class Start(Struct, tag_field="type", tag="FileTransferStartUpload"):
    source_component_uuid: Name
    transfer_uuid: Name
    filename: Annotated[str, Meta(max_length=1000)]
    mime_type: Name
    part_count: Count
    size_bytes: Annotated[int, Meta(ge=0)]


class Part(Struct, tag_field="type", tag="FileTransferPart"):
    source_component_uuid: Name
    transfer_uuid: Name
    part_index: Count
    content: bytes


_decode = msgspec.msgpack.Decoder(Camera | Update | Click | Start | Part).decode
_encode = msgspec.msgpack.Encoder().encode


class NoMessageError(Exception):
    """What came was no message at all."""


class Guard:
    """Reads what one visitor sends. `open` names their page's controls; until then, only the camera is heard.

    `refuse(sentence, start)` is called for an upload that may not be, from the gate's thread.
    """

    _together = threading.Lock()
    _held = 0  # bytes of all visitors' files

    def __init__(self) -> None:
        self.seen = False  # whether the page has said where its camera is
        self._control: Callable[[str], Any] = lambda uuid: None
        self._refuse: Callable[[str, Start], None] = lambda sentence, start: None
        self._muted = False
        self._upload: Start | None = None
        self._parts = self._received = self._mine = 0

    def open(self, control: Callable[[str], Any], refuse: Callable[[str, Start], None]) -> None:
        """From now on: the page's controls by their number, and what tells the visitor that a file may not be."""
        self._control, self._refuse = control, refuse

    def mute(self) -> None:
        """Hear nothing any more."""
        self._muted = True

    def close(self) -> None:
        """The visitor has gone, or their file has been dealt with."""
        with Guard._together:
            Guard._held -= self._mine
            self._mine = 0

    def read(self, data: bytes) -> bytes | None:
        """The message as it may be passed on; nothing if it may not. Raises `NoMessageError` if it is none."""
        try:
            message = _decode(data)
        except msgspec.ValidationError:
            return None
        except (msgspec.DecodeError, RecursionError) as error:
            raise NoMessageError from error
        if self._muted:
            return None
        return _encode(message) if self._allowed(message) else None

    def _allowed(self, message: Camera | Update | Click | Start | Part) -> bool:
        match message:
            case Camera():
                self.seen = True
            case Update():
                return self._update(message)
            case Start():
                return self._start(message)
            case Part():
                return self._part(message)
        return True

    def _update(self, message: Update) -> bool:
        """Whether the control can have this value."""
        control, value = self._control(message.uuid), message.updates.value
        if control is None or isinstance(control, viser.GuiUploadButtonHandle):
            return False
        if isinstance(control, viser.GuiButtonGroupHandle | viser.GuiDropdownHandle):
            return value in control.options
        wanted = type(control.value)
        return isinstance(value, wanted if wanted in (bool, str) else float)

    def _start(self, message: Start) -> bool:
        """Whether this file may come: one at a time, not too large, and into the button that is for it."""
        if not isinstance(self._control(message.source_component_uuid), viser.GuiUploadButtonHandle):
            return False
        size = message.size_bytes
        if self._upload is not None:
            sentence = "One file at a time, please."
        elif size > MOST_BYTES:
            sentence = f"This file is larger than {MOST_BYTES // 2**20} MB; reduce it first."
        elif message.part_count > 1 + size or not self._hold(size):
            sentence = "Many visitors are sending files just now; please try again in a minute."
        else:
            self._parts = self._received = 0
            self._upload = message if message.part_count else None
            return True
        self._refuse(sentence, message)
        return False

    def _hold(self, size: int) -> bool:
        self.close()
        with Guard._together:
            if Guard._held + size > MOST_TOGETHER:
                return False
            Guard._held += size
            self._mine = size
            return True

    def _part(self, message: Part) -> bool:
        """Whether this is the next part of the file that was announced, and together they are not longer than it."""
        upload = self._upload
        if upload is None or message.transfer_uuid != upload.transfer_uuid or message.part_index != self._parts:
            return False
        message.source_component_uuid = upload.source_component_uuid
        received = self._received + len(message.content)
        last = self._parts + 1 == upload.part_count
        if received > upload.size_bytes or (last and received != upload.size_bytes):
            return False
        self._parts, self._received = self._parts + 1, received
        if last:
            self._upload = None
        return True
