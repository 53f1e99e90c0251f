"""HTTP as the egress proxy reads and writes it: one end of an exchange, where a request is to go,
and the headers that go with it.

Raises: EgressRefused (400) for what is no request to a proxy; h11.ProtocolError, OSError.
"""

import asyncio
import contextlib
from typing import Any

import h11
from wfhub_common.egress import Endpoint, endpoint

from wfhub_agent_runner.egress_policy import EgressRefused

CLOSE_S_MAX = 5.0  # for the last bytes to be taken
LINGER_BYTES_MAX = 1024 * 1024  # read of an agent that still writes when it was answered
CHUNK_BYTES = 64 * 1024
HEADER_READ_BYTES = 4 * 1024  # how far a header may be over its limit

_FRAMING = {b"content-length", b"transfer-encoding"}
NOT_FORWARDED = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
    *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    *(b"host", b"expect"),
}

Header = tuple[bytes, bytes]


class Side:
    """One end of an exchange: its streams, and what HTTP makes of them."""

    def __init__(
        self,
        role: type[h11.CLIENT] | type[h11.SERVER],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        header_bytes_max: int,
    ) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=header_bytes_max)
        self.reader, self.writer = reader, writer
        self._read_bytes = HEADER_READ_BYTES

    async def event(self) -> Any:
        """Raises: h11.RemoteProtocolError, OSError."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(self._read_bytes))
        if isinstance(event, h11.Request | h11.Response):
            self._read_bytes = CHUNK_BYTES
        return event

    async def send(self, event: Any) -> None:
        self.writer.write(self.http.send(event) or b"")
        await self.writer.drain()
        # One read may hold ten thousand chunks of a byte, and neither line above gives way: the
        # runner renews its leases in this loop.
        await asyncio.sleep(0)

    async def linger(self) -> None:
        """To close on a peer that still writes would destroy the answer on its way."""
        left = LINGER_BYTES_MAX
        with contextlib.suppress(OSError):
            async with asyncio.timeout(CLOSE_S_MAX):
                self.writer.write_eof()
                while left > 0 and (chunk := await self.reader.read(CHUNK_BYTES)):
                    left -= len(chunk)

    async def close(self) -> None:
        """What was written is taken within CLOSE_S_MAX, or lost."""
        self.writer.close()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(CLOSE_S_MAX):
                await self.writer.wait_closed()
        self.writer.transport.abort()


def asked(request: h11.Request) -> tuple[Endpoint, bytes | None]:
    """(where to, the path there), or None for the path of a tunnel. Raises: EgressRefused."""
    text = request.target.decode("ascii")
    path = None
    if request.method == b"CONNECT":
        authority = text
        if any(name in _FRAMING for name, _ in request.headers):
            raise EgressRefused(400, "malformed", "a CONNECT has no body")
    else:
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() != "http":
            message = "this is a proxy: ask with CONNECT host:port, or for http://host/path"
            raise EgressRefused(400, "malformed", message)
        rest = rest.partition("#")[0]
        end = min((at for mark in "/?" if (at := rest.find(mark)) >= 0), default=len(rest))
        authority, path = rest[:end], rest[end:].encode()
        authority = authority if ":" in authority else f"{authority}:80"
        path = path if path.startswith(b"/") else b"/" + path
    try:
        return endpoint(authority), path
    except ValueError as e:
        raise EgressRefused(400, "malformed", str(e)) from e


def forwarded(request: h11.Request, target: Endpoint) -> list[Header]:
    """Host is what was checked; the body has one length; what speaks of the connection is ours."""
    chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
    named = b",".join(value for name, value in request.headers if name == b"connection")
    dropped = {word.strip().lower() for word in named.split(b",")} - _FRAMING | NOT_FORWARDED
    if chunked:
        dropped |= {b"content-length"}
    authority = target.host if target.port == 80 else str(target)
    return [
        (b"host", authority.encode()),
        *((name, value) for name, value in request.headers if name not in dropped),
        *(((b"transfer-encoding", b"chunked"),) if chunked else ()),
        (b"connection", b"close"),
    ]
