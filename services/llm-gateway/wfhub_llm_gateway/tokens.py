"""Attempt tokens: who is asking, for how long, and with which limits.

The gateway knows no token. It sends the SHA-256 to the scheduler (RPC `introspect`), remembers the
answer for INTROSPECT_CACHE_S at most, and forgets it at once when the scheduler says that the
attempt ended. That hint may be lost: then the cache's age and the lease's end do the same, later.
Who asked a model in the last minutes waits for no answer: all of them are asked about together, so
often that none of the answers gets that old. Where that fails, each is asked about when it is used.
A lease ends when the scheduler's answer says, counted from our question on a monotonic clock: what
this machine's calendar says, or how it jumps, changes nothing.
Fails closed: a token that cannot be checked is not let in, an open stream whose token ran out and
cannot be checked is cut.
Raises: Rejected (401 `token-missing`, `token-inactive`), RetryLater.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.httpauth import ATTEMPT_TOKEN_PREFIX, bearer, token_sha256
from wfhub_common.log import get_logger
from wfhub_common.messages import TokenInfo
from wfhub_common.messages.gateway import INTROSPECTED_MAX

INTROSPECT_CACHE_S = 5.0
FRESH_EVERY_S = 2.0  # with a second and more for the answer, the age above is kept
FRESH_FOR_S = 120.0  # since a token was used last
FRESH_TOKENS_MAX = INTROSPECTED_MAX  # the last that were used
TOKENS_CACHED_MAX = 10_000
ENDED_REMEMBERED_MAX = 100_000
TOKEN_CHARS_MAX = 200
RECHECK_S_MIN = 0.5  # a lease that ends now and is still active is not asked about in a loop

Introspect = Callable[[str], Awaitable[TokenInfo]]
IntrospectMany = Callable[[tuple[str, ...]], Awaitable[tuple[TokenInfo, ...]]]
log = get_logger(__name__)


@dataclass(frozen=True)
class Known:
    """An answer of the scheduler's. `asked_at` and `until` (of the lease) are monotonic."""

    info: TokenInfo
    asked_at: float
    until: float

    @property
    def left_s(self) -> float:
        return self.until - time.monotonic()


def known(info: TokenInfo, asked_at: float) -> Known:
    left_s = info.valid_for_s
    if left_s is None:
        until = info.valid_until
        left_s = inf if until is None else (until - datetime.now(UTC)).total_seconds()
    return Known(info, asked_at, asked_at + left_s)


class Tokens:
    def __init__(self, introspect: Introspect, introspect_many: IntrospectMany) -> None:
        """They ask the scheduler, by SHA-256."""
        self._introspect, self._introspect_many = introspect, introspect_many
        self._used: OrderedDict[str, float] = OrderedDict()  # when, the last one last
        self._cached: OrderedDict[str, Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Known]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    async def check(self, authorization: str | None) -> tuple[str, TokenInfo]:
        """The token's SHA-256 and what is known of it."""
        token = bearer(authorization)
        if token is None or not token.startswith(ATTEMPT_TOKEN_PREFIX):
            raise Rejected(
                "token-missing",
                "send the attempt's token (wat_…) as `Authorization: Bearer`; inside a sandbox "
                "the relay at the given base URL does that",
                status=401,
            )
        if len(token) > TOKEN_CHARS_MAX:
            raise Rejected("token-inactive", "this is not a token of the scheduler", status=401)
        digest = token_sha256(token)
        found = self._cached.get(digest)
        if found is None or time.monotonic() - found.asked_at > INTROSPECT_CACHE_S:
            found = await self.ask(digest)
        live = self._live(found).info
        self._used[digest] = time.monotonic()
        self._used.move_to_end(digest)
        if len(self._used) > FRESH_TOKENS_MAX:
            self._used.popitem(last=False)
        return digest, live

    async def keep_fresh(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(FRESH_EVERY_S)
            try:
                await self.refresh()
            except WfhubError as e:  # as from an earlier scheduler
                log.debug("tokens not asked about together", why=str(e))

    async def refresh(self) -> None:
        """Raises: WfhubError."""
        asked_at = time.monotonic()
        for digest in [d for d, at in self._used.items() if asked_at - at > FRESH_FOR_S]:
            del self._used[digest]
        digests = tuple(self._used)
        if not digests:
            return
        for digest, info in zip(digests, await self._introspect_many(digests), strict=True):
            if not info.active:
                self._used.pop(digest, None)
            earlier = self._cached.get(digest)
            if earlier is None or asked_at > earlier.asked_at:
                self._remember(digest, known(info, asked_at))

    async def ask(self, digest: str) -> Known:
        """Past the cache; requests at the same time share one question."""
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest))
            asking.add_done_callback(lambda done: self._answered(digest, done))
        return await asyncio.shield(asking)

    def _answered(self, digest: str, done: asyncio.Task[Known]) -> None:
        self._asking.pop(digest, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            # Whoever waits for it is told; all of them may be gone.
            log.debug("token not asked about", why=str(error))

    async def _ask(self, digest: str) -> Known:
        asked_at = time.monotonic()
        found = known(await self._introspect(digest), asked_at)
        self._remember(digest, found)
        return found

    def _remember(self, digest: str, found: Known) -> None:
        self._cached[digest] = found
        self._cached.move_to_end(digest)
        if len(self._cached) > TOKENS_CACHED_MAX:
            self._cached.popitem(last=False)

    def _live(self, found: Known) -> Known:
        info = found.info
        # The hint may overtake the answer to an earlier question: it wins.
        if not info.active or self.is_ended(info.attempt_id) or found.left_s <= 0:
            raise Rejected(
                "token-inactive",
                "the token is not (or no longer) that of a running attempt",
                status=401,
            )
        return found

    def ended(self, attempt_id: str) -> None:
        """The scheduler says so. For good: an attempt id is never reused."""
        self._ended[attempt_id] = None
        if len(self._ended) > ENDED_REMEMBERED_MAX:
            self._ended.popitem(last=False)

    def is_ended(self, attempt_id: str) -> bool:
        return attempt_id in self._ended

    async def watch(self, digest: str, cut: Callable[[WfhubError], None]) -> None:
        """For as long as a stream is open: ask again when its token runs out."""
        found = self._cached.get(digest)
        while found is None or found.until < inf:
            left_s = 0.0 if found is None else found.left_s
            await asyncio.sleep(max(left_s, RECHECK_S_MIN))
            try:
                found = self._live(await self.ask(digest))
            except WfhubError as e:
                attempt_id = "" if found is None else found.info.attempt_id
                log.info("stream cut at the end of its lease", attempt_id=attempt_id, why=str(e))
                cut(e)
                return
