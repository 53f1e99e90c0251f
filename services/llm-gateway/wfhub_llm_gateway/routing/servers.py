"""One server that routes lead to: its places, and one request asked of it.

A provider that is full is waited for: QUEUE_S_MAX at most, by WAITING_MAX requests at most.
An answer counts once the first piece of its body is there; until then whatever goes wrong is a
Failure, and another server may be asked.
Raises: UpstreamFailed (`provider-busy`, 503); after that piece, what the provider raises.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from wfhub_llm_gateway import translation
from wfhub_llm_gateway.formats.asked import Asked, UpstreamFailed
from wfhub_llm_gateway.provider import Answer, Provider
from wfhub_llm_gateway.routing import backoff, reasons
from wfhub_llm_gateway.routing.reasons import Reason

QUEUE_S_MAX = 30.0
WAITING_MAX = 1000
ERROR_BODY_BYTES_MAX = 1024 * 1024  # of a refusal that may be passed on


@dataclass(frozen=True)
class Failure:
    """What came in place of an answer: a refusal that can be passed on, or an error."""

    reason: Reason
    came: Answer | UpstreamFailed
    retry_after_s: float | None = None


class Server:
    def __init__(self, name: str, provider: Provider, concurrency: int) -> None:
        self.name, self.provider = name, provider
        self._places = asyncio.Semaphore(concurrency)
        self._waiting = 0

    @property
    def full(self) -> bool:
        return self._places.locked()

    async def ask(
        self, stack: AsyncExitStack, asked: Asked, *, attempt_id: str
    ) -> Answer | Failure:
        """An answer's work upstream, and its place, are ended by `stack`."""
        own = AsyncExitStack()
        try:
            await own.enter_async_context(self._place())
            answer = await own.enter_async_context(
                translation.asking(self.provider, asked, attempt_id=attempt_id)
            )
            came = await self._begun(answer, asked.model)
        except UpstreamFailed as e:
            await own.aclose()
            reason = reasons.of_code(e.code)
            if reason is None:
                raise
            return Failure(reason, e)
        except BaseException:
            await own.aclose()
            raise
        if isinstance(came, Failure):
            await own.aclose()
            return came
        stack.push_async_exit(own)
        return came

    async def _begun(self, answer: Answer, model: str) -> Answer | Failure:
        named = replace(answer, provider=self.name, model=model)
        if answer.status < 400:
            chunks = aiter(answer.chunks)
            first = await anext(chunks, None)
            return replace(named, chunks=_from(first, chunks))
        body = bytearray()
        async for chunk in answer.chunks:
            body += chunk
            if len(body) > ERROR_BODY_BYTES_MAX:
                break
        whole = replace(named, stream=False, chunks=_from(bytes(body), None))
        reason = reasons.of_answer(answer.status, bytes(body))
        if reason is None:
            return whole
        waits = backoff.retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC))
        return Failure(reason, whole, waits)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self.full and self._waiting >= WAITING_MAX:
            raise self._busy(f"{WAITING_MAX} requests wait for it already")
        self._waiting += 1
        try:
            async with asyncio.timeout(QUEUE_S_MAX):
                await self._places.acquire()
        except TimeoutError as e:
            raise self._busy(f"no place in {QUEUE_S_MAX:g} s") from e
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    def _busy(self, why: str) -> UpstreamFailed:
        return UpstreamFailed(
            "provider-busy",
            f"the provider {self.name!r} has as many requests open as its `concurrency` allows "
            f"({why}); ask again",
            status=503,
        )


async def _from(first: bytes | None, rest: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    if first:
        yield first
    if rest is not None:
        async for chunk in rest:
            yield chunk
