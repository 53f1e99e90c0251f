"""Attempt tokens: who is asking, for how long, and with which limits.

The gateway knows no token. It sends the SHA-256 to the scheduler (RPC `introspect`), remembers the
answer for INTROSPECT_CACHE_S at most, and forgets it at once when the scheduler says that the
attempt ended. That hint may be lost: then the cache's age and the lease's end do the same, later.
Who is heard of again before the answer is that old waits for nothing: it is asked for beside.
Fails closed: a token that cannot be checked is not let in, an open stream whose token ran out and
cannot be checked is cut.
Raises: Rejected (401 `token-missing`, `token-inactive`), RetryLater.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.httpauth import ATTEMPT_TOKEN_PREFIX, bearer, token_sha256
from wfhub_common.log import get_logger
from wfhub_common.messages import TokenInfo

INTROSPECT_CACHE_S = 5.0
# A token that is used when its answer is as old is asked about beside the request.
ASK_AHEAD_S = 2.5
TOKENS_CACHED_MAX = 10_000
ENDED_REMEMBERED_MAX = 100_000
TOKEN_CHARS_MAX = 200
RECHECK_S_MIN = 0.5  # a lease that ends now and is still active is not asked about in a loop

Introspect = Callable[[str], Awaitable[TokenInfo]]
log = get_logger(__name__)


class Tokens:
    def __init__(self, introspect: Introspect) -> None:
        """`introspect(sha256)` asks the scheduler."""
        self._introspect = introspect
        self._cached: OrderedDict[str, tuple[float, TokenInfo]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[TokenInfo]] = {}
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
        asked_at, info = self._cached.get(digest, (0.0, None))
        age_s = time.monotonic() - asked_at
        if info is None or age_s > INTROSPECT_CACHE_S:
            info = await self.ask(digest)
        elif age_s > ASK_AHEAD_S:
            self._asked(digest)
        return digest, self._live(info)

    async def ask(self, digest: str) -> TokenInfo:
        """Past the cache; requests at the same time share one question."""
        return await asyncio.shield(self._asked(digest))

    def _asked(self, digest: str) -> asyncio.Task[TokenInfo]:
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest))
            asking.add_done_callback(lambda done: self._answered(digest, done))
        return asking

    def _answered(self, digest: str, done: asyncio.Task[TokenInfo]) -> None:
        self._asking.pop(digest, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            # Whoever waits for it is told; nobody need do so.
            log.debug("token not asked about", why=str(error))

    async def _ask(self, digest: str) -> TokenInfo:
        info = await self._introspect(digest)
        self._cached[digest] = (time.monotonic(), info)
        self._cached.move_to_end(digest)
        if len(self._cached) > TOKENS_CACHED_MAX:
            self._cached.popitem(last=False)
        return info

    def _live(self, info: TokenInfo) -> TokenInfo:
        # The hint may overtake the answer to an earlier question: it wins.
        if not info.active or self.is_ended(info.attempt_id) or _left_s(info) <= 0:
            raise Rejected(
                "token-inactive",
                "the token is not (or no longer) that of a running attempt",
                status=401,
            )
        return info

    def ended(self, attempt_id: str) -> None:
        """The scheduler says so. For good: an attempt id is never reused."""
        self._ended[attempt_id] = None
        if len(self._ended) > ENDED_REMEMBERED_MAX:
            self._ended.popitem(last=False)

    def is_ended(self, attempt_id: str) -> bool:
        return attempt_id in self._ended

    async def watch(self, digest: str, info: TokenInfo, cut: Callable[[WfhubError], None]) -> None:
        """For as long as a stream is open: ask again when its token runs out."""
        while info.valid_until is not None:
            await asyncio.sleep(max(_left_s(info), RECHECK_S_MIN))
            try:
                info = self._live(await self.ask(digest))
            except WfhubError as e:
                log.info(
                    "stream cut at the end of its lease", attempt_id=info.attempt_id, why=str(e)
                )
                cut(e)
                return


def _left_s(info: TokenInfo) -> float:
    if info.valid_until is None:
        return float("inf")
    return (info.valid_until - datetime.now(UTC)).total_seconds()
