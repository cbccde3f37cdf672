"""The only door to the studio: who may enter, how many, and for how long.

The gate opens before the viewer is there: whoever comes while models are still being loaded is shown so, and the page
comes by itself.

The viewer asks nobody who they are. So it listens on a port of this machine that nobody is told, and the gate listens
in its place: it reads the head of each request, checks where it comes from, and fetches pages from the viewer or
passes messages on, each of which `guard` reads first. Nobody enters without

- the token, in the address (`/?token=…`, answered by a cookie) or in that cookie, if the studio is open to others;
- a `Host` that is this machine, if it is not: other names may have been bent to it by a hostile name server;
- an `Origin` that is the studio's own page, on WebSockets: browsers let any page open one.

Behind a proxy, the address that browsers see has to be told (`behind`), for what a proxy says of itself may be said by
anybody. There is no encryption: on a network that is not trusted, put the studio behind TLS or SSH.

Rooms are small, and who waits longest without having said who they are goes first: idle connections cannot lock others
out. A place is taken by the first message of a page, in one thread, so that no two visitors take the same one.
"""

import asyncio
import contextlib
import gzip
import hmac
import ipaddress
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from meshgan.errors import UsageError
from meshgan.studio.guard import PROTOCOL, Guard, NoMessageError
from meshgan.studio.wire import BROKEN, COOKIE, SERVED, Line, Reader, Request, Writer, head_of, parts_of, response, send

PASS = "X-Meshgan-Pass"  # what the gate shows the viewer; nobody else is let in there
MOST_HEAD = 64 * 2**10  # bytes of a request's head: the cookies of everything else on the host are in it
MOST_FILE = 64 * 2**20  # bytes of one of the viewer's files
MOST_VISITORS = 32
MOST_STRANGERS, MOST_SERVED, MOST_WAITING = 256, 64, 64  # connections at a time, in the gate's three rooms
PATIENCE = 10.0  # seconds for a head to arrive, and for a page's first message
RATE, BURST = 100.0, 300.0  # messages per second of one visitor, and how many may come at once
FULL = 20.0  # seconds to read that the studio is full
TRIES = 100  # ports from the wanted one
DEPTH = 8  # of a path under which a proxy may have put the studio

LOCAL = "127.0.0.1"
STANDARD = {"http": 80, "https": 443}

PAGE = """<!doctype html><html lang="en"><title>meshgan studio</title>
<meta name="viewport" content="width=device-width">
<body style="font:16px/1.5 sans-serif;max-width:26em;margin:20vh auto;padding:0 1em;color:#333">
<h1 style="font-size:1.3em">meshgan studio</h1>
"""
ASKING = """<p>This studio asks for its token: open the address that <code>meshgan studio</code> has printed, or type it
here.</p>
<form><input name="token" type="password" autofocus style="font:inherit;padding:.3em;width:16em">
<button style="font:inherit;padding:.3em 1em">Enter</button></form>
"""
ELSEWHERE = """<p>This studio does not know this address. Open the one that <code>meshgan studio</code> has printed; for
a proxy, start it with <code>--behind</code> and the address that browsers see.</p>
"""
LOADING = """<p>Loading the models &hellip; This page opens by itself.</p>
"""
Result = TypeVar("Result")


@dataclass(eq=False)
class Guest:
    """A browser's page: the guard that reads what it says, whether it is taking what was sent, and has a place."""

    guard: Guard = field(default_factory=Guard)
    taking: bool = False
    placed: bool = False


class Room:
    """Connections that wait for something. In a full room, the one that has waited longest makes way."""

    def __init__(self, size: int) -> None:
        self._size, self._tasks = size, dict[asyncio.Task[None], None]()

    def __len__(self) -> int:
        return len(self._tasks)

    def enter(self, task: asyncio.Task[None]) -> None:
        while len(self._tasks) >= self._size:
            oldest = next(iter(self._tasks))
            self.leave(oldest)
            oldest.cancel()
        self._tasks[task] = None

    def leave(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)


class Gate:
    """Listens on `host` and `port` from construction until `stop`; `lead_to` says where the viewer is.

    On this machine alone (a loopback `host`) everybody may enter; anywhere else, or `behind` a proxy at that address,
    `token` opens it. Raises `UsageError` if the address cannot be had; a taken port of this machine moves on to the
    next one. `tell` is given, once for each, a sentence about a page that was refused and may be the owner's proxy.
    """

    def __init__(
        self,
        host: str = LOCAL,
        port: int = 8080,
        behind: str = "",
        tell: Callable[[str], None] = lambda sentence: print(sentence, file=sys.stderr, flush=True),
    ) -> None:
        if not host.strip():
            raise UsageError("`host` is empty, which would mean every network; give an address, or leave it out.")
        self._host, self._outside = host.strip(), public_address(behind) if behind else ""
        self._behind, self._tell = urlsplit(self._outside), tell
        alone = is_loopback(self._host)
        self.token = "" if alone and not behind else secrets.token_urlsafe(16)
        self._inner, self._led = 0, asyncio.Event()
        self._all: set[asyncio.Task[None]] = set()
        self._strangers, self._served, self._waiting = Room(MOST_STRANGERS), Room(MOST_SERVED), Room(MOST_WAITING)
        self._inside: set[Guest] = set()
        self._passes: dict[str, Guest] = {}
        self._files: dict[tuple[str, bool], bytes] = {}
        self._told: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="meshgan-gate", daemon=True)
        self._thread.start()
        try:
            self._server = self._run(self._listen(port, TRIES if alone else 1))
        except OSError as error:
            self._end()
            raise UsageError(
                f"cannot listen on {self._host}:{port} ({error.strerror}); choose another `port`."
            ) from error
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def addresses(self) -> list[str]:
        """What to type into a browser: what others see, on this machine, and on others of the network."""
        everywhere = self._host in ("0.0.0.0", "::")
        hosts = [LOCAL, _own_address()] if everywhere else [f"[{self._host}]" if ":" in self._host else self._host]
        known = [f"http://{host}:{self.port}" for host in hosts]
        if not self.token:
            return known
        outside = [self._outside + ("index.html" if self._behind.path != "/" else "")] if self._outside else []
        return [f"{address}?token={self.token}" for address in (*outside, *(f"{address}/" for address in known))]

    def lead_to(self, inner: int) -> None:
        """Let those who may enter through to the viewer at 127.0.0.1:`inner`."""
        self._inner = inner
        self._loop.call_soon_threadsafe(self._led.set)

    def guest(self, shown: str | None) -> Guest | None:
        """Whose pass this is. Nobody's, if the gate has not made it."""
        return self._passes.get(shown or "")

    def stop(self) -> None:
        """Close all connections and free the port, once."""
        if not self._loop.is_closed():
            self._run(self._close())
            self._end()

    async def _listen(self, port: int, tries: int) -> asyncio.Server:
        host = "127.0.0.1" if self._host == "localhost" else self._host  # of two families, each would have a free port
        for number in range(port, port + tries):
            try:
                return await asyncio.start_server(self._serve, host, number, limit=MOST_HEAD, backlog=512)
            except OSError:
                if number in (port + tries - 1, 65535):
                    raise
        raise AssertionError

    async def _close(self) -> None:
        self._server.close()
        for task in self._all:
            task.cancel()
        await asyncio.gather(*self._all, return_exceptions=True)

    def _run(self, work: Coroutine[None, None, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._all.add(task)
        self._strangers.enter(task)
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            request = Request.of(head.rstrip(b"\r\n"))
            if answer := self._refusal(request):
                await send(writer, request, answer)
                return
            self._strangers.leave(task)
            if request.websocket:
                self._waiting.enter(task)
                await self._converse(request, reader, writer, task)
            else:
                self._served.enter(task)
                await self._file(request, writer)
        except BROKEN:
            pass
        except asyncio.CancelledError:  # made way for another one, or the gate closes
            pass
        finally:
            for room in (self._strangers, self._served, self._waiting):
                room.leave(task)
            self._all.discard(task)
            writer.transport.abort()

    # Who may enter

    def _refusal(self, request: Request) -> bytes:
        """The answer to who may not enter, or who has just shown the token; empty for everybody else."""
        if self.token:
            if self._fits(request.given):
                return self._cookie(request)
            if not any(self._fits(kept) for kept in request.kept):
                return response("403 Forbidden", PAGE + ASKING)
        if not self._known(request):
            self._mention(request)
            return response("403 Forbidden", PAGE + ELSEWHERE)
        return b""

    def _fits(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())

    def _known(self, request: Request) -> bool:
        """Whether the browser has asked for us by a name of ours, and from a page of ours.

        Without a token, what is no browser (it names no origin) may enter from this machine. With one, a page that was
        fetched over TLS may have come through a proxy that replaces the host by ours; its cookie, which browsers show
        to pages of the same site only, is what lets it in.
        """
        host, origin, behind = request.host, parts_of(request.origin), self._behind
        if not (self.token or is_loopback(_name(host)) or _name(host) == self._host.lower()):
            return False
        if not request.origin:
            return not (request.websocket and self.token)
        if behind.netloc and request.origin == f"{behind.scheme}://{behind.netloc}":
            return True
        if origin.netloc and origin.netloc == host != behind.netloc:
            return True
        proxied = origin.scheme == "https" and is_loopback(_name(host)) and not is_loopback(origin.hostname or "")
        return bool(self.token) and not behind.netloc and proxied

    def _mention(self, request: Request) -> None:
        """Tell the owner of a page that was refused, for it may be their proxy."""
        origin = parts_of(request.origin)
        site = request.origin if request.origin and origin.hostname else f"http://{request.host}"
        site = "".join(letter for letter in site if letter.isascii() and letter.isprintable())[:100]
        if site not in self._told and len(self._told) < 5:
            self._told.add(site)
            self._tell(f"A page of {site} may not enter. If it is your proxy, start the studio with --behind {site}/")

    def _cookie(self, request: Request) -> bytes:
        """Send the browser on to the page, with a cookie, and without the token in the address.

        Both are relative to the address that the browser sees. Under a path, the viewer finds its way from a file only.
        """
        folder, _, last = request.path.rpartition("/")
        beneath = folder or self._behind.path.strip("/")
        place = f"{last}/" if last not in ("", "index.html") else "index.html" if beneath else "./"
        secure = "; Secure" if self._behind.scheme == "https" else ""
        cookie = f"{COOKIE}-{self.port}={self.token}; HttpOnly; SameSite=Strict{secure}"
        return response("303 See Other", "", f"Location: {place}\r\nSet-Cookie: {cookie}\r\n")

    # What they get

    async def _file(self, request: Request, writer: Writer) -> None:
        """One of the viewer's files. A proxy may have put the studio under a path, which need not be told."""
        if not self._led.is_set():
            await send(writer, request, response("200 OK", PAGE + LOADING, "Refresh: 1\r\n"))
            return
        folder, _, last = request.path.rpartition("/")
        if not last and (folder or self._behind.path.strip("/")):
            await send(writer, request, response("303 See Other", "", "Location: index.html\r\n"))
            return
        parts = request.path.split("/")[1:]
        zipped = "gzip" in request.headers.get("accept-encoding", "")
        for start in range(min(len(parts), DEPTH)):
            if answer := await self._fetch("/" + "/".join(parts[start:]), zipped):
                await send(writer, request, answer)
                return
        await send(writer, request, response("404 Not Found", PAGE + "<p>There is nothing here.</p>"))

    async def _fetch(self, path: str, zipped: bool) -> bytes:
        """The viewer's answer to a request for a file; empty if it has none."""
        if (path, zipped) in self._files:
            return self._files[path, zipped]
        async with asyncio.timeout(SERVED):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._inner)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode("latin-1"))
                answer = bytearray()
                while (part := await reader.read(2**16)) and len(answer) < MOST_FILE:
                    answer += part
            finally:
                writer.transport.abort()
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        if first.split(" ")[1:2] != ["200"]:
            return b""
        kept = [line for line in lines if line.lower().startswith("content-type:")]
        if zipped:
            body = await asyncio.to_thread(gzip.compress, body)
            kept.append("Content-Encoding: gzip")
        whole = head_of("200 OK", len(body), "".join(f"{line}\r\n" for line in kept)) + body
        if len(self._files) < 100:  # the viewer's page is one file
            self._files[path, zipped] = whole
        return whole

    async def _converse(self, request: Request, reader: Reader, writer: Writer, task: asyncio.Task[None]) -> None:
        """Be the WebSocket's other end for the browser, and a browser for the viewer."""
        offered = [word.strip() for word in request.headers.get("sec-websocket-protocol", "").split(",")]
        ours = next((word for word in offered if word.startswith("viser-v")), None)
        if ours is None:
            await send(writer, request, response("400 Bad Request", PAGE + "<p>Open this address in a browser.</p>"))
            return
        line = Line(reader, writer, ours)
        if not await line.shake_hands(request):
            return
        if ours != PROTOCOL:  # a page that was opened before the viewer was renewed says so then
            await line.close(1002, f"Version mismatch. Client: {ours}, Server: {PROTOCOL}")
            return
        await self._led.wait()
        guest, shown = Guest(), secrets.token_urlsafe(16)
        self._passes[shown] = guest
        try:
            async with connect(
                f"ws://127.0.0.1:{self._inner}", subprotocols=[PROTOCOL], additional_headers={PASS: shown},
                compression=None, max_size=None, ping_interval=None, proxy=None, close_timeout=2.0,
            ) as inner:  # fmt: skip
                await self._until_any(
                    self._listen_to(line, guest, inner, task), self._speak_to(line, guest, inner), line.pulse()
                )
                await line.close(1001, "The studio is closed.")
        finally:
            self._passes.pop(shown, None)
            self._inside.discard(guest)
            guest.guard.close()

    async def _until_any(self, *work: Coroutine[None, None, None]) -> None:
        tasks = [asyncio.ensure_future(part) for part in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in tasks:
                part.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen_to(self, line: "Line", guest: Guest, inner: ClientConnection, task: asyncio.Task[None]) -> None:
        """Pass on what the browser says and the guard allows, at a pace that leaves time for others."""
        budget, then = BURST, time.monotonic()
        async with asyncio.timeout(PATIENCE) as patience:
            async for data in line.messages():
                now = time.monotonic()
                budget, then = min(BURST, budget + RATE * (now - then)) - 1, now
                if budget < 0:
                    await asyncio.sleep(-budget / RATE)
                try:
                    allowed = guest.guard.read(data)
                except NoMessageError:
                    await line.close(1007, "This is no message of the studio's page.")
                    return
                if allowed is None:
                    continue
                if not guest.placed and guest.guard.seen:
                    if len(self._inside) < MOST_VISITORS:
                        guest.placed = True
                        self._inside.add(guest)
                        self._waiting.leave(task)
                        patience.reschedule(None)
                    else:
                        guest.guard.mute()  # the viewer welcomes them, with a sentence
                        patience.reschedule(asyncio.get_running_loop().time() + FULL)
                await inner.send(allowed)

    async def _speak_to(self, line: "Line", guest: Guest, inner: ClientConnection) -> None:
        """Pass on what the viewer says."""
        async for data in inner:
            assert isinstance(data, bytes)
            guest.taking = True
            await line.say(data)
            guest.taking = False


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


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A host without its port, and without the brackets of IPv6."""
    return parts_of(f"//{host}").hostname or ""
