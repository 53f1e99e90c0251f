"""The client that measures: streams over plain sockets, on connections that it keeps.

A Way is where to ask and with which keys; each exchange takes the next key, since an attempt may
ask 1,200 times and have 32 streams at once. Units: ms for latencies, else as named.
"""

import asyncio
import itertools
import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

STAMP = re.compile(rb"(?<=content\": \")\d{20}|(?<=content\":\")\d{20}")
REQUEST_S_MAX = 60.0
LATE_S_MAX = 15.0


@dataclass
class Way:
    name: str
    port: int
    model: str = "{}"  # of a script's name
    keys: list[str] = field(default_factory=lambda: ["none"])
    _next: Iterator[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._next = itertools.cycle(self.keys)

    def key(self) -> str:
        return next(self._next)


@dataclass
class Measured:
    first_byte: list[float] = field(default_factory=list)  # from the request's start
    whole: list[float] = field(default_factory=list)
    chunk: list[float] = field(default_factory=list)  # from upstream's write to our read


class Connection:
    """Raises: RuntimeError for an answer that is not a whole stream."""

    def __init__(self, way: Way) -> None:
        self.way = way

    async def __aenter__(self) -> "Connection":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.way.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, script: str) -> None:
        message = {"role": "user", "content": "Say something of a reasonable length, please."}
        model = self.way.model.format(script)
        value = {"model": model, "stream": True, "messages": [message]}
        value["stream_options"] = {"include_usage": True}
        body = json.dumps(value).encode()
        self.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            + f"authorization: Bearer {self.way.key()}\r\n".encode()
            + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )

    async def head(self) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            rest = await self.reader.read(2000)
            raise RuntimeError(f"{self.way.name} answered {head!r} {rest!r}")

    async def exchange(self, script: str, measured: Measured | None = None) -> None:
        async with asyncio.timeout(REQUEST_S_MAX):
            started = time.monotonic_ns()
            self.send(script)
            await self.head()
            first, tail, done = 0, b"", False
            while not done:
                data = await self.reader.read(65536)
                now = time.monotonic_ns()
                if not data:
                    raise RuntimeError(f"{self.way.name} closed before the end: {tail!r}")
                if measured is not None:
                    first = first or now
                    found = STAMP.findall(data)
                    measured.chunk += [(now - int(stamp)) / 1e6 for stamp in found]
                tail = (tail + data)[-200:]
                done = tail.endswith(b"0\r\n\r\n")
            if b"[DONE]" not in tail:
                raise RuntimeError(f"{self.way.name} did not end well: {tail!r}")
            if measured is not None:
                measured.first_byte.append((first - started) / 1e6)
                measured.whole.append((time.monotonic_ns() - started) / 1e6)


async def latency(ways: list[Way], *, script: str, count: int, rounds: int) -> dict[str, Measured]:
    """One request after the other, the ways in turn, so that all see the same machine."""
    results = {way.name: Measured() for way in ways}
    for way in ways:
        async with Connection(way) as connection:
            for _ in range(20):
                await connection.exchange(script)
    for _ in range(rounds):
        for way in ways:
            async with Connection(way) as connection:
                for _ in range(count // rounds):
                    await connection.exchange(script, results[way.name])
    return results


@dataclass
class Load:
    ended: int = 0  # whole streams
    failed: int = 0  # refused, cut off, or too late
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        return self.ended / self.seconds


async def throughput(way: Way, *, script: str, streams: int, seconds: float) -> Load:
    """So many streams open at once all the time. One that was begun is waited for, for
    LATE_S_MAX, and its time counts, so that a slow way is not credited with nothing."""
    load = Load()
    started = time.monotonic()

    async def work() -> None:
        while time.monotonic() < started + seconds:
            try:
                async with Connection(way) as connection:
                    while time.monotonic() < started + seconds:
                        await connection.exchange(script)
                        load.ended += 1
            except (RuntimeError, OSError, TimeoutError, asyncio.IncompleteReadError):
                load.failed += 1

    workers = [asyncio.create_task(work()) for _ in range(streams)]
    _, late = await asyncio.wait(workers, timeout=seconds + LATE_S_MAX)
    for worker in late:
        worker.cancel()
    load.failed += len(late)
    load.seconds = time.monotonic() - started
    return load


async def held(
    way: Way, *, script: str, streams: int, within_s: float
) -> tuple[list[Connection], str]:
    """So many streams, open and with their first chunk there, or as many as are by then, and why
    no more."""
    opened: list[Connection] = []
    deadline = time.monotonic() + within_s

    async def begin(connection: Connection) -> None:
        await connection.__aenter__()
        connection.send(script)
        await connection.head()
        await connection.reader.readuntil(b"data: ")

    for start in range(0, streams, 50):
        batch = [Connection(way) for _ in range(min(50, streams - start))]
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await asyncio.gather(*map(begin, batch))
        except TimeoutError:
            return opened, f"no more within {within_s:g} s"
        except (RuntimeError, OSError, asyncio.IncompleteReadError) as e:
            return opened, f"{type(e).__name__}: {e}"[:200]
        opened += batch
    return opened, ""


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def p50(values: list[float]) -> float:
    return statistics.median(values)


def p99(values: list[float]) -> float:
    return quantile(values, 0.99)
