"""A door in front of a studio that is open to a network: nobody passes without the token.

The viewer itself asks nobody who they are. So it listens on this machine alone, and the gate, a small TCP relay,
listens to the network: it reads the head of each connection's first request, wants the token in the address
(`/?token=…`, answered by a cookie) or in that cookie, and then passes bytes on, both ways. WebSockets must come from
the studio's own page. There is no encryption: on a network that is not trusted, put it behind TLS or SSH.
"""

import asyncio
import hmac
import threading
from collections.abc import Coroutine, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TypeAlias, TypeVar
from urllib.parse import parse_qs, urlsplit

from meshgan.errors import UsageError

COOKIE = "meshgan-studio"
MOST_HEAD = 16 * 2**10  # bytes of a request's head
PATIENCE = 10.0  # seconds for it to arrive
MOST_WAITING = 256  # connections at a time

ASKING = """<!doctype html><title>meshgan studio</title>
<meta name="viewport" content="width=device-width">
<body style="font:16px/1.5 sans-serif;max-width:26em;margin:20vh auto;padding:0 1em;color:#333">
<h1 style="font-size:1.3em">meshgan studio</h1>
<p>This studio asks for its token: open the address that <code>meshgan studio</code> has printed, or type it here.</p>
<form><input name="token" type="password" autofocus style="font:inherit;padding:.3em;width:16em">
<button style="font:inherit;padding:.3em 1em">Enter</button></form>
"""

Result = TypeVar("Result")
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


@dataclass(frozen=True)
class Request:
    """The head of an HTTP request: its target and its headers, names in lower case."""

    target: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, head: bytes) -> "Request":
        """Raises `ValueError` if it is none."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        if method not in ("GET", "HEAD") or not version.startswith("HTTP/1."):
            raise ValueError(first)
        pairs = [line.partition(":") for line in lines if line]
        return cls(target, {name.strip().lower(): value.strip() for name, _, value in pairs})

    @property
    def given(self) -> str:
        """The token in the address."""
        return parse_qs(urlsplit(self.target).query).get("token", [""])[0]

    @property
    def kept(self) -> str:
        """The token in the cookie."""
        try:
            morsel = SimpleCookie(self.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return morsel.value if morsel else ""

    @property
    def foreign(self) -> bool:
        """Whether it is a WebSocket that another site's page has opened."""
        origin = urlsplit(self.headers.get("origin", "")).netloc
        return self.headers.get("upgrade", "").lower() == "websocket" and origin != self.headers.get("host", "")


class Gate:
    """Listens on `host` and `port` from construction until `stop`, in front of 127.0.0.1:`inner`."""

    def __init__(self, host: str, port: int, inner: int, token: str) -> None:
        self._token, self._inner = token, inner
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="meshgan-gate", daemon=True)
        self._thread.start()
        try:
            self._server = self._run(asyncio.start_server(self._serve, host, port, limit=MOST_HEAD))
        except OSError as error:
            self._end()
            raise UsageError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port.") from error
        self.port: int = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Close all connections and free the port."""
        self._run(self._close())
        self._end()

    async def _close(self) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _run(self, work: Coroutine[None, None, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MOST_WAITING:
            writer.close()
            return
        self._open.add(task)
        try:
            with closing(writer), suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                await self._answer(Request.of(head.rstrip(b"\r\n")), head, reader, writer)
        finally:
            self._open.discard(task)

    async def _answer(self, request: Request, head: bytes, reader: Reader, writer: Writer) -> None:
        if self._right(request.given):
            cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            writer.write(_response("303 See Other", "", f"Location: /\r\nSet-Cookie: {cookie}\r\n"))
        elif request.foreign or not self._right(request.kept):
            writer.write(_response("403 Forbidden", ASKING))
        else:
            await self._pass_on(head, reader, writer)
        await writer.drain()

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    async def _pass_on(self, head: bytes, reader: Reader, writer: Writer) -> None:
        """Connect to the studio and pass bytes on until either side has had enough."""
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner)
        with closing(inner_writer):
            inner_writer.write(head)
            ways = [asyncio.create_task(_pump(*way)) for way in ((reader, inner_writer), (inner_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()


def _response(status: str, page: str, headers: str = "") -> bytes:
    body = page.encode()
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode() + body
