"""Attempt logs: head and tail kept on disk as artifacts, and a live tail on the broker.

A LogFile keeps the first and the last LOG_BYTES_MAX / 2 bytes. Secrets of this process are
masked before a byte is kept or sent; a match across chunk borders is found, since the last
bytes of a chunk wait for the next one. The live tail is best effort: the artifact is the log.
"""

import asyncio
from collections import deque
from pathlib import Path

from faststream.nats import NatsBroker
from wfhub_common import limits, subjects
from wfhub_common.log import get_logger

FLUSH_S = 0.2  # a chunk of the live tail waits at most this long for company
MASK = b"[redacted]"

log = get_logger(__name__)


class Redactor:
    """Masks exact secrets in a stream of chunks."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = sorted((s.encode() for s in secrets if s), key=len, reverse=True)
        self._overlap = max((len(s) for s in self._secrets), default=1) - 1
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        data = self._masked(self._held + chunk)
        keep = self._held_back(data)
        self._held = data[len(data) - keep :] if keep else b""
        return data[: len(data) - keep]

    def finish(self) -> bytes:
        rest, self._held = self._held, b""
        return rest

    def _masked(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, MASK)
        return data

    def _held_back(self, data: bytes) -> int:
        """How many last bytes could be the beginning of a secret."""
        for size in range(min(self._overlap, len(data)), 0, -1):
            tail = data[-size:]
            if any(secret.startswith(tail) for secret in self._secrets):
                return size
        return 0


class LogFile:
    """Head and tail of a stream of bytes, written to `path` by `close`."""

    def __init__(self, path: Path, *, bytes_max: int = limits.LOG_BYTES_MAX) -> None:
        self.path = path
        self._half = bytes_max // 2
        self._head = path.open("wb")
        self._head_bytes = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.dropped_bytes = 0

    def write(self, data: bytes) -> None:
        room = self._half - self._head_bytes
        if room > 0:
            self._head.write(data[:room])
            self._head_bytes += len(data[:room])
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_bytes += len(data)
            while self._tail_bytes - len(self._tail[0]) >= self._half:
                gone = self._tail.popleft()
                self._tail_bytes -= len(gone)
                self.dropped_bytes += len(gone)

    def close(self) -> None:
        if self._head.closed:
            return
        tail = b"".join(self._tail)
        if len(tail) > self._half:
            self.dropped_bytes += len(tail) - self._half
            tail = tail[-self._half :]
        if self.dropped_bytes:
            self._head.write(f"\n[… {self.dropped_bytes} bytes left out …]\n".encode())
        self._head.write(tail)
        self._head.close()


class AttemptLog:
    """One named log of an attempt: `agent`, `verify`, `base-verify`. Use as an async context."""

    def __init__(
        self,
        kind: str,
        path: Path,
        *,
        at: subjects.AttemptSubject,
        broker: NatsBroker,
        secrets: tuple[str, ...],
    ) -> None:
        self.kind = kind
        self.file = LogFile(path)
        self._subject = subjects.log(at)
        self._broker = broker
        self._redactor = Redactor(secrets)
        self._pending = bytearray()
        self._at = 0  # bytes before `_pending`
        self._flusher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "AttemptLog":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keep(self._redactor.finish())
        if self._flusher is not None:
            self._flusher.cancel()
        await self._flush()
        self.file.close()

    async def write(self, chunk: bytes) -> None:
        self._keep(self._redactor.feed(chunk))
        if len(self._pending) >= limits.LOG_CHUNK_BYTES_MAX:
            await self._flush()
        elif self._pending and (self._flusher is None or self._flusher.done()):
            self._flusher = asyncio.create_task(self._flush_soon())

    async def line(self, text: str) -> None:
        await self.write(text.encode() + b"\n")

    def _keep(self, data: bytes) -> None:
        self.file.write(data)
        self._pending += data

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH_S)
        await self._flush()

    async def _flush(self) -> None:
        while self._pending:
            chunk = bytes(self._pending[: limits.LOG_CHUNK_BYTES_MAX])
            del self._pending[: len(chunk)]
            headers = {subjects.LOG_HEADER: self.kind, subjects.LOG_AT_HEADER: str(self._at)}
            self._at += len(chunk)
            try:
                await self._broker.publish(chunk, self._subject, headers=headers)
            except Exception as e:  # noqa: BLE001 - the live tail is best effort; the file has it
                log.debug("live log chunk lost", error=repr(e))
                return
