"""Cuts: ending an open exchange from outside, with a reason that its client is told.

Causes: the client went away, the attempt ended, its token ran out, the process stops. The first
reason counts. OpenStreams knows the open exchanges of this process by attempt.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wfhub_common.errors import Rejected, RetryLater, WfhubError

STREAMS_PER_ATTEMPT_MAX = 32
CLIENT_GONE, CLIENT_STALLED = "client-gone", "client-stalled"
UNTOLD = (CLIENT_GONE, CLIENT_STALLED)  # there is nobody to tell


def client_gone() -> WfhubError:
    return Rejected(CLIENT_GONE, "the client closed the connection", status=499)


def client_stalled(after_s: float) -> WfhubError:
    message = f"the client took nothing of its answer for {after_s:g} s"
    return Rejected(CLIENT_STALLED, message, status=499)


def attempt_ended() -> WfhubError:
    return Rejected("token-inactive", "this attempt has ended; its token is dead", status=401)


def stopping() -> WfhubError:
    return RetryLater("gateway-stopping", "the gateway is restarting; ask again")


@dataclass(eq=False)
class Cut:
    """Cancels `work` once. `reason` tells a cut from any other cancellation."""

    work: asyncio.Task[None]
    reason: WfhubError | None = None

    def now(self, reason: WfhubError) -> None:
        if self.reason is None and not self.work.done():
            self.reason = reason
            self.work.cancel()


class OpenStreams:
    def __init__(self) -> None:
        self._cuts: defaultdict[str, set[Cut]] = defaultdict(set)

    @contextmanager
    def opened(self, attempt_id: str, cut: Cut) -> Iterator[None]:
        self._cuts[attempt_id].add(cut)
        try:
            yield
        finally:
            self._cuts[attempt_id].discard(cut)
            if not self._cuts[attempt_id]:
                del self._cuts[attempt_id]

    @property
    def count(self) -> int:
        return sum(map(len, self._cuts.values()))

    def check_room(self, attempt_id: str) -> None:
        """Raises: Rejected (`too-many-streams`, 429)."""
        if len(self._cuts.get(attempt_id, ())) >= STREAMS_PER_ATTEMPT_MAX:
            raise Rejected(
                "too-many-streams",
                f"this attempt has {STREAMS_PER_ATTEMPT_MAX} requests open at once already, "
                "the most that are allowed; wait for one to end",
                status=429,
            )

    def cut_all(self, reason: WfhubError) -> None:
        for attempt_id in list(self._cuts):
            self.cut_attempt(attempt_id, reason)

    def cut_attempt(self, attempt_id: str, reason: WfhubError) -> int:
        """How many were open."""
        cuts = list(self._cuts.get(attempt_id, ()))
        for cut in cuts:
            cut.now(reason)
        return len(cuts)
