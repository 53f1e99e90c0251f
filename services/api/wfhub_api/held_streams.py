"""Held streams: a streamed response that holds one of the caller's stream slots until it ends.

The slot is taken before the response's head leaves (so that too many is a 429) and given back
however the response ends, one that never started included. It ends too when the caller's token
was revoked: each ALLOWED_S, what comes is held until the token was looked at again.
Server-sent events that are quiet are kept alive by comments: who hears none of three in a row (the
client of ours) takes the server for gone.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from wfhub_common.errors import Rejected

STREAMS_MAX = 512  # open event and log streams of one process
STREAMS_PER_CALLER_MAX = 64
ALLOWED_S = 15.0  # a token that was revoked reads on for so long
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"


class Streams:
    """Counts open streams, by caller."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        return self._open.total()

    def take(self, caller: str) -> None:
        if self._open.total() >= STREAMS_MAX or self._open[caller] >= STREAMS_PER_CALLER_MAX:
            raise Rejected(
                "too-many-streams",
                f"too many open streams; one token may have {STREAMS_PER_CALLER_MAX}: close some",
                status=429,
            )
        self._open[caller] += 1

    def give_back(self, caller: str) -> None:
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]


class HeldStream(StreamingResponse):
    """Make it last in a handler: from then on the slot is the response's to give back."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        streams: Streams,
        caller: str,
        still_allowed: Callable[[], Awaitable[bool]],
    ) -> None:
        allowed = _while_allowed(content, still_allowed)
        super().__init__(allowed, media_type=media_type, headers={"X-Accel-Buffering": "no"})
        streams.take(caller)
        self._content, self._streams, self._caller = content, streams, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.give_back(self._caller)
            await self._content.aclose()


async def _while_allowed(
    chunks: AsyncIterator[bytes], still_allowed: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop().time
    asked_at = clock()
    async for chunk in chunks:
        if clock() - asked_at >= ALLOWED_S:
            if not await still_allowed():
                return
            asked_at = clock()
        yield chunk


async def kept_alive(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same, with a comment first, so that the head leaves at once, and one whenever it was
    quiet for KEEP_ALIVE_S."""
    coming: asyncio.Future[bytes] | None = None
    try:
        yield KEEP_ALIVE
        while True:
            coming = coming or asyncio.ensure_future(anext(events, b""))
            done, _ = await asyncio.wait([coming], timeout=KEEP_ALIVE_S)
            if not done:
                yield KEEP_ALIVE
                continue
            event, coming = coming.result(), None
            if not event:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await events.aclose()


async def primed(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same chunks, the first one read already: what fails at once fails as a problem
    document, not as a response cut off."""
    try:
        first = await anext(chunks)
    except StopAsyncIteration:
        first = b""
    return _resumed(first, chunks)


async def _resumed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for chunk in rest:
        yield chunk
