"""Test support: a real HTTP server that webhooks are sent to, and that misbehaves on demand.

What it is asked is kept in order, by path. How it answers the next requests for a path is put into
`answers`: a status, bytes to send as they are, or a coroutine function that is given the writer;
200 for all that nothing was said about. A connection serves request after request.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

WAIT_S = 60.0
Answer = int | bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def pos(self) -> int:
        return int(self.event["wfhubpos"])


@dataclass
class Receiver:
    url: str = ""
    received: dict[str, list[Received]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, deque[Answer]] = field(default_factory=lambda: defaultdict(deque))
    connections: int = 0
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def got(self, path: str, count: int) -> list[Received]:
        """All that came to `path`, once there are so many."""
        async with asyncio.timeout(WAIT_S), self._came:
            await self._came.wait_for(lambda: len(self.received[path]) >= count)
        return self.received[path]

    def positions(self, path: str) -> list[int]:
        return [one.pos for one in self.received[path]]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                one = await _request(reader)
                async with self._came:
                    self.received[one.path].append(one)
                    self._came.notify_all()
                await self._answer(one.path, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        answer = self.answers[path].popleft() if self.answers[path] else 200
        if isinstance(answer, int):
            answer = reply(answer)
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)


def reply(status: int, **headers: str) -> bytes:
    given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} So\r\n{given}Content-Length: 2\r\n\r\nok".encode()


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def held(until: asyncio.Event, status: int = 200) -> Answer:
    async def waits(writer: asyncio.StreamWriter) -> None:
        await until.wait()
        writer.write(reply(status))

    return waits


async def endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def _request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in headers.items()}
    body = await reader.readexactly(int(headers["content-length"]))
    method, path, _ = head[0].split(" ")
    assert method == "POST"
    return Received(path, headers, body)


@asynccontextmanager
async def receiving(**options: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with suppress(asyncio.CancelledError):  # of the end of the test
            await receiver.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    scheme = "https" if options.get("ssl") else "http"
    receiver.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield receiver
    server.close()
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
