"""A TCP proxy between one client group and one server: cut both ways or one way, delay, close, and,
for NATS, taps that see each message and may hold, repeat or drop it.

A cut direction carries nothing and closes nothing: bytes wait, as they do in TCP while a route is
gone, and flow when it is back. What a side closes meanwhile is told to the other one only then.
Units: seconds, bytes.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from chaos.wire import Frame, Parser

CHUNK_BYTES = 64 * 1024
TO_SERVER, TO_CLIENT = "to-server", "to-client"
DIRECTIONS = (TO_SERVER, TO_CLIENT)


@dataclass
class Flow:
    """One direction of all links of a proxy."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0
    bytes_passed: int = 0
    chunks_held: int = 0  # that met a cut


@dataclass(eq=False)
class Link:
    """One connection of a client, and ours to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    parsers: dict[str, Parser] = field(default_factory=dict)

    @property
    def server_side_port(self) -> int:
        """As the server sees it: pg_stat_activity.client_port."""
        return int(self.server.get_extra_info("sockname")[1])

    def abort(self) -> None:
        for writer in (self.client, self.server):
            with contextlib.suppress(Exception):
                writer.transport.abort()


# What a tap makes of a frame: the frames' bytes to send on instead (none: it is dropped).
Tap = Callable[[str, Frame, Link], Awaitable[Sequence[bytes] | None]]


class Proxy:
    def __init__(self, name: str, port: int, *, nats: bool) -> None:
        self.name, self.upstream_port, self._nats = name, port, nats
        self.flows = {direction: Flow() for direction in DIRECTIONS}
        for flow in self.flows.values():
            flow.open.set()
        self.links: set[Link] = set()
        self.taps: list[Tap] = []
        self.connects = self.refused = 0
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._accepted, sock=self._listener, limit=CHUNK_BYTES
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.close_links()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self, *directions: str) -> None:
        for direction in directions or DIRECTIONS:
            self.flows[direction].open.clear()

    def heal(self) -> None:
        for flow in self.flows.values():
            flow.open.set()
            flow.delay_s = 0.0
        self.taps.clear()

    def close_links(self) -> None:
        for link in list(self.links):
            link.abort()

    @property
    def bytes_passed(self) -> int:
        return sum(flow.bytes_passed for flow in self.flows.values())

    @property
    def chunks_held(self) -> int:
        return sum(flow.chunks_held for flow in self.flows.values())

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        self.connects += 1
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            return
        finally:
            self._pumps.discard(task)
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for flow in self.flows.values():  # a handshake needs both ways
            await flow.open.wait()
        try:
            from_server, to_server = await asyncio.open_connection(
                "127.0.0.1", self.upstream_port, limit=CHUNK_BYTES
            )
        except OSError:
            self.refused += 1
            return
        link = Link(writer, to_server, {d: Parser() for d in DIRECTIONS} if self._nats else {})
        self.links.add(link)
        try:
            await asyncio.gather(
                self._pump(TO_SERVER, reader, to_server, link),
                self._pump(TO_CLIENT, from_server, writer, link),
            )
        finally:
            self.links.discard(link)
            link.abort()

    async def _pump(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link
    ) -> None:
        """When one side ends, so does the link: neither server has half-closed connections."""
        flow = self.flows[way]
        try:
            while True:
                data = await reader.read(CHUNK_BYTES)
                if not flow.open.is_set():
                    flow.chunks_held += 1
                    await flow.open.wait()
                if not data:
                    break
                if flow.delay_s:
                    await asyncio.sleep(flow.delay_s)
                flow.bytes_passed += len(data)
                for piece in await self._tapped(way, data, link):
                    writer.write(piece)
                await writer.drain()
        except (OSError, ValueError):
            pass
        finally:
            if not writer.is_closing():
                with contextlib.suppress(OSError):
                    await writer.drain()
            writer.close()
            reader_transport = link.client if way == TO_SERVER else link.server
            reader_transport.close()

    async def _tapped(self, way: str, data: bytes, link: Link) -> Sequence[bytes]:
        if not self._nats:
            return (data,)
        frames = link.parsers[way].feed(data)  # a part of a frame waits in the parser
        if not self.taps:
            return (b"".join(frame.raw for frame in frames),)
        pieces: list[bytes] = []
        for frame in frames:
            for tap in list(self.taps):
                instead = await tap(way, frame, link) if frame.carries else None
                if instead is not None:
                    pieces.extend(instead)
                    break
            else:
                pieces.append(frame.raw)
        return pieces
