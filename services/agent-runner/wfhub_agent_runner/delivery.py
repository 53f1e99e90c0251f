"""Delivery: from the spool to the proof-store, until there is a signed receipt.

For each item: HTTP PUT of the bytes (content-addressed, so a repeat is harmless), then an
ArtifactStored on WFHUB_INGEST (acknowledged by JetStream), then the receipts are asked for.
Each step is repeated with backoff until it holds; nothing is removed from the spool before.
What gets no receipt within a question's wait is announced again: the stream may have been lost.
Raises: Rejected when the proof-store refuses an item for good.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from functools import partial
from pathlib import Path

import httpx
from faststream.nats import NatsBroker
from nats.errors import Error as NatsError
from wfhub_common import broker as rpc
from wfhub_common import digests, messages, subjects, tracing
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger

from wfhub_agent_runner.spool import Item, Spool

UPLOAD_TIMEOUT_S = 60.0
ACK_TIMEOUT_S = 5.0
RECEIPTS_WAIT_S = 10.0
BACKOFF_S_MAX = 15.0
_CHUNK_BYTES = 256 * 1024

log = get_logger(__name__)


class Delivery:
    def __init__(
        self, *, runner_id: str, spool: Spool, broker: NatsBroker, http: httpx.AsyncClient
    ) -> None:
        self._runner_id = runner_id
        self._spool = spool
        self._broker = broker
        self._http = http  # base_url and bearer token of the proof-store

    async def deliver(self, items: Sequence[Item]) -> tuple[messages.Receipt, ...]:
        """The receipts of all items of one attempt, in order; waits as long as it takes."""
        if not items:
            return ()
        for item in items:
            if not item.blob.exists():  # an earlier process has its receipt already
                continue
            await _until_done(partial(self._upload, item), what=item.name)
            await _until_done(partial(self._announce, item), what=item.name)
        receipts = await self._receipts(items)
        for item in items:
            self._spool.remove(item)
        return receipts

    async def deliver_what_is_taken(
        self, items: Sequence[Item]
    ) -> tuple[tuple[messages.Receipt, ...], Rejected | None]:
        """As `deliver`, without what the proof-store refuses for good; and the first refusal."""
        try:
            return await self.deliver(items), None
        except Rejected as e:
            refusal = e
        receipts: list[messages.Receipt] = []
        for item in items:
            try:
                receipts += await self.deliver([item])
            except Rejected as e:
                log.warning("artifact refused", attempt_id=item.attempt_id, reason=e.message)
                self._spool.remove(item)
        return tuple(receipts), refusal

    async def deliver_leftovers(self, but_of: Container[str] = ()) -> None:
        """What an earlier process of this runner left: evidence of attempts that were lost.
        `but_of`: attempts that are handed in otherwise."""
        for item in list(self._spool.waiting()):
            if item.attempt_id in but_of:
                continue
            if self._spool.expired(item):
                log.warning("spooled artifact expired", attempt_id=item.attempt_id, name=item.name)
                self._spool.remove(item)
                continue
            try:
                await self.deliver([item])
            except Rejected as e:
                log.warning(
                    "spooled artifact refused", attempt_id=item.attempt_id, reason=e.message
                )
                self._spool.remove(item)

    async def fetch(self, digest: str, into: Path) -> None:
        """A blob by digest, checked, as a file. Raises: RetryLater, Rejected."""
        path = f"/blobs/sha256/{digests.hex_of(digests.parse(digest))}"
        state = hashlib.sha256()
        try:
            async with self._http.stream("GET", path) as reply:
                if reply.status_code != 200:
                    said = f"{digest}: the proof-store says {reply.status_code}"
                    raise RetryLater("blob-missing", said)
                with await asyncio.to_thread(into.open, "wb") as file:
                    async for chunk in reply.aiter_bytes(_CHUNK_BYTES):
                        state.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
        except httpx.HTTPError as e:
            raise RetryLater("proof-store-down", f"the proof-store does not answer: {e!r}") from e
        if f"sha256:{state.hexdigest()}" != digest:
            raise RetryLater("blob-corrupt", f"{digest}: the bytes received do not match")

    async def _upload(self, item: Item) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            with item.blob.open("rb") as reader:
                while chunk := await asyncio.to_thread(reader.read, _CHUNK_BYTES):
                    yield chunk

        path = f"/blobs/sha256/{digests.hex_of(digests.parse(item.digest))}"
        try:
            reply = await self._http.put(
                path,
                content=chunks(),
                headers={"Content-Length": str(item.size), **(tracing.headers() or {})},
                timeout=UPLOAD_TIMEOUT_S,
            )
        except httpx.HTTPError as e:
            raise RetryLater("proof-store-down", f"the proof-store does not answer: {e!r}") from e
        if reply.status_code in {200, 201, 204}:
            return
        if reply.status_code in {413, 422}:
            raise Rejected("artifact-refused", f"{item.name}: {reply.text[:500]}")
        raise RetryLater("proof-store-refused", f"{reply.status_code}: {reply.text[:500]}")

    async def _announce(self, item: Item) -> None:
        body = messages.ArtifactStored(
            attempt_id=item.attempt_id,
            name=item.name,
            digest=item.digest,
            size=item.size,
            media_type=item.media_type,
        )
        at = subjects.AttemptSubject(
            self._runner_id, item.project_id, item.task_id, item.attempt_id, "artifact"
        )
        try:
            await self._broker.publish(
                body.model_dump_json().encode(),
                subjects.ingest(at),
                stream=subjects.INGEST_STREAM,
                timeout=ACK_TIMEOUT_S,
                headers=tracing.headers(),
            )
        except (NatsError, TimeoutError, OSError) as e:
            raise RetryLater("broker-down", f"JetStream did not acknowledge: {e!r}") from e

    async def _receipts(self, items: Sequence[Item]) -> tuple[messages.Receipt, ...]:
        names = tuple(item.name for item in items)
        wanted = {(item.name, item.digest) for item in items}
        found: dict[str, messages.Receipt] = {}

        async def ask() -> None:
            reply = await rpc.ask(
                self._broker,
                self._runner_id,
                "receipts",
                messages.ReceiptsOf(
                    attempt_id=items[0].attempt_id, names=names, wait_s=RECEIPTS_WAIT_S
                ),
                messages.Receipts,
                timeout_s=RECEIPTS_WAIT_S + 5,
            )
            for name, why in reply.refused.items():
                raise Rejected("artifact-refused", f"no receipt for {name}: {why}")
            found.update({r.name: r for r in reply.receipts if (r.name, r.digest) in wanted})
            missing = set(names) - set(found)
            if missing:
                for item in items:
                    if item.name in missing:
                        await self._announce(item)
                raise RetryLater("receipts-missing", f"no receipt yet for {sorted(missing)}")

        await _until_done(ask, what="receipts")
        return tuple(found[name] for name in names)


async def _until_done(step: Callable[[], Awaitable[None]], *, what: str) -> None:
    turn = 0
    while True:
        try:
            await step()
        except RetryLater as e:
            pause_s = min(BACKOFF_S_MAX, 0.2 * 2**turn) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            if turn in {3, 10} or turn % 50 == 49:
                log.warning("delivery waits", what=what, error=e.code, reason=e.message, turn=turn)
            turn += 1
            await asyncio.sleep(pause_s)
        else:
            return
