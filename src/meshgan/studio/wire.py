"""HTTP and WebSockets, as much of them as the gate speaks to browsers.

The protocol's own rules are kept by `websockets`; what is ours is how long anything may take, and how large it may be.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qs, urlsplit

from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

COOKIE = "meshgan-studio"  # and the port: browsers keep one set of cookies for all ports of a host
MOST_MESSAGE = 2**20  # bytes; browsers send files in parts of half of that
SERVED = 60.0  # seconds for a file to be taken
QUIET = 60.0  # seconds without a sign of life: something said, or another piece taken of what we say
PULSE = 20.0  # seconds between questions for one
PIECE = 2**18  # bytes

SAFE = (
    "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\nContent-Security-Policy: frame-ancestors 'none'\r\nConnection: close\r\n"
)

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
BROKEN = (OSError, ValueError, EOFError, asyncio.LimitOverrunError, TimeoutError, WebSocketException)


@dataclass(frozen=True)
class Request:
    """The head of an HTTP request: its method, its target and its headers, names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, head: bytes) -> "Request":
        """Raises `ValueError` if it is none."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        if method not in ("GET", "HEAD") or not version.startswith("HTTP/1.") or not target.startswith("/"):
            raise ValueError(first)
        if not (target.isascii() and target.isprintable()):
            raise ValueError(first)
        headers: dict[str, str] = {}
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            key, value = name.strip().lower(), value.strip()
            headers[key] = f"{headers[key]}{'; ' if key == 'cookie' else ', '}{value}" if key in headers else value
        return cls(method, target, headers)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def given(self) -> str:
        """The token in the address."""
        return parse_qs(urlsplit(self.target).query).get("token", [""])[0]

    @property
    def kept(self) -> list[str]:
        """The tokens in our cookies. Whatever other programs keep on this host is passed over."""
        pairs = [pair.partition("=") for pair in self.headers.get("cookie", "").split(";")]
        return [value.strip().strip('"') for name, _, value in pairs if name.strip().startswith(COOKIE)]

    @property
    def websocket(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket"

    @property
    def host(self) -> str:
        """The name and the port that the browser has asked for."""
        return self.headers.get("host", "").lower()

    @property
    def origin(self) -> str:
        """Where the page is from that asks; nothing for what is no browser."""
        return self.headers.get("origin", "").lower()


class Line:
    """A WebSocket to a browser."""

    def __init__(self, reader: Reader, writer: Writer, protocol: Any) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = ServerProtocol(subprotocols=[protocol], max_size=MOST_MESSAGE)
        self._turn = asyncio.Lock()
        self._heard = time.monotonic()

    async def shake_hands(self, request: Request) -> bool:
        """Accept the connection. Whether it could be."""
        wanted = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")
        lines = [f"{name}: {request.headers[name]}" for name in wanted if name in request.headers]
        lines.append(f"sec-websocket-protocol: {request.headers['sec-websocket-protocol']}")
        self._protocol.receive_data("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1"))
        for event in self._protocol.events_received():
            self._protocol.send_response(self._protocol.accept(event))  # type: ignore[arg-type]
        await self._flush()
        return self._protocol.state is State.OPEN

    async def messages(self) -> AsyncIterator[bytes]:
        """What the browser says, message by message, until it hangs up. Text is no message of the viewer's."""
        parts: list[bytes] = []
        while not self._protocol.close_expected() and (data := await self._reader.read(2**16)):
            self._heard = time.monotonic()
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                assert isinstance(event, Frame)
                if event.opcode is Opcode.TEXT:
                    self._protocol.fail(1003)
                elif event.opcode in (Opcode.BINARY, Opcode.CONT):
                    parts.append(bytes(event.data))
                    if event.fin:
                        yield b"".join(parts)
                        parts = []
            await self._flush()

    async def say(self, data: bytes) -> None:
        """Send a message, and wait until it is taken but for what the system holds."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            await self._flush(counts=True)

    async def pulse(self) -> None:
        """Ask for a sign of life now and then. Ends when there was none for long."""
        while time.monotonic() - self._heard < QUIET and self._protocol.state is State.OPEN:
            await asyncio.sleep(PULSE)
            if self._protocol.state is State.OPEN and not self._turn.locked():
                self._protocol.send_ping(b"")
                async with asyncio.timeout(QUIET):
                    await self._flush()

    async def close(self, code: int, reason: str) -> None:
        """Hang up, with a reason."""
        with suppress(*BROKEN):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(code, reason)
                async with asyncio.timeout(1.0):
                    await self._flush()

    async def _flush(self, counts: bool = False) -> None:
        """Send what the protocol has to say, in pieces; whether each that is taken `counts` as a sign of life.

        Frames do not mix, and who takes nothing is not heard either.
        """
        async with self._turn:
            for data in self._protocol.data_to_send():
                for start in range(0, len(data), PIECE):
                    self._writer.write(data[start : start + PIECE])
                    await self._writer.drain()
                    if counts:
                        self._heard = time.monotonic()


async def send(writer: Writer, request: Request, answer: bytes) -> None:
    """Send an answer whole, and hang up; but not to who does not take it."""
    writer.transport.set_write_buffer_limits(0)
    async with asyncio.timeout(SERVED):
        writer.write(answer if request.method == "GET" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def response(status: str, page: str, headers: str = "") -> bytes:
    body = page.encode()
    return head_of(status, len(body), f"{headers}Content-Type: text/html; charset=utf-8\r\n") + body


def head_of(status: str, size: int, headers: str) -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {size}\r\n{SAFE}\r\n".encode("latin-1")


def parts_of(address: str) -> SplitResult:
    """The parts of an address; of what is none, nothing."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
