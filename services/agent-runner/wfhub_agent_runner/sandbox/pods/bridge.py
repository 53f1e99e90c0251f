"""The runner's end of what a pod's agent may reach: its relay's sockets, over TCP.

A pod may run on another machine, where the relay's unix socket is not. The pod's sidecar
connects here and says in one line who it is (a secret of that run) and which way it wants; from
then on bytes pass both ways. The attempt's token stays in the runner: the secret opens that
run's sockets, for as long as it runs.
"""

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CHUNK_BYTES = 64 * 1024
HELLO_BYTES_MAX = 256
HELLO_S_MAX = 5.0
CONNECTIONS_MAX = 512  # of all runs; an agent's own forwarder holds fewer


@dataclass
class Bridge:
    host: str  # this pod's address
    port: int = 0
    _admitted: dict[str, Mapping[str, Path]] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _open: int = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    @contextlib.contextmanager
    def admitting(self, ways: Mapping[str, Path]) -> Iterator[str]:
        """Yields the secret that opens `ways` (name → socket) meanwhile."""
        secret = secrets.token_urlsafe(32)
        self._admitted[secret] = ways
        try:
            yield secret
        finally:
            del self._admitted[secret]

    def _socket(self, hello: bytes) -> Path | None:
        said, _, way = hello.decode(errors="replace").strip().partition(" ")
        found = None
        for secret, ways in self._admitted.items():
            if hmac.compare_digest(secret.encode(), said.encode()):
                found = ways.get(way)
        return found

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > CONNECTIONS_MAX:
                return
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                hello = await asyncio.wait_for(reader.readline(), HELLO_S_MAX)
                path = self._socket(hello) if len(hello) <= HELLO_BYTES_MAX else None
                if path is not None:
                    far_reader, far_writer = await asyncio.open_unix_connection(path)
                    try:
                        await asyncio.gather(passed(reader, far_writer), passed(far_reader, writer))
                    finally:
                        far_writer.close()
        finally:
            self._open -= 1
            writer.close()


async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All of one direction, its end included."""
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
