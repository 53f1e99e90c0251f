"""The claim loop: ask for work while there are free slots, run each attempt as a task of its own.

A claim_id lives until its reply arrived, so a lost reply is asked for again under the same id
and yields the same attempts, with the same tokens. Scheduler or broker down: the loop waits,
claimed attempts go on. An assignment that this version cannot read is left to its lease's end.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from faststream.nats import NatsBroker
from pydantic import ValidationError
from wfhub_common import broker as rpc
from wfhub_common import httpauth, ids, messages
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages.base import Fact

from wfhub_agent_runner.leases import Leases

BACKOFF_S_MAX = 5.0
PAUSED_POLL_S = 1.0
CLAIM_SLOTS_MAX = 100  # that one Claim may ask for; the next asks for the others

log = get_logger(__name__)
RunAttempt = Callable[[messages.Assignment], Coroutine[None, None, None]]


class _Claimed(Fact):
    """messages.Claimed, before its assignments are read."""

    assignments: tuple[dict[str, Any], ...] = ()


class Claims:
    wait_s = 10.0
    margin_s = 5.0  # that an answer may come late

    def __init__(
        self,
        *,
        broker: NatsBroker,
        leases: Leases,
        runner_id: str,
        incarnation: str,
        slots: int,
        pool: str,
        run: RunAttempt,
    ) -> None:
        self._broker = broker
        self._leases = leases
        self._runner_id = runner_id
        self._incarnation = incarnation
        self._free = slots
        self._pool = pool
        self._run = run
        self._token_key = httpauth.new_token(httpauth.ATTEMPT_TOKEN_PREFIX)
        self._slot_free = asyncio.Event()
        self._slot_free.set()
        self._running: set[asyncio.Task[None]] = set()
        self.paused = asyncio.Event()  # set: take no tasks (an escape probe got through)

    async def loop(self) -> None:
        """Claim until cancelled."""
        claim_id, failures = ids.new_claim_id(), 0
        while True:
            await self._slot_free.wait()
            if self.paused.is_set():
                await asyncio.sleep(PAUSED_POLL_S)
                continue
            try:
                claimed = await self._claim(claim_id)
            except (RetryLater, Rejected) as e:
                if isinstance(e, Rejected):
                    self._leases.unknown_here.set()
                failures += 1
                if failures in {1, 5} or failures % 60 == 0:
                    log.warning("claim not answered", error=e.code, reason=e.message)
                pause_s = min(BACKOFF_S_MAX, 0.2 * 2 ** min(failures, 8))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
                continue
            failures = 0
            claim_id = ids.new_claim_id()
            for assignment in _readable(claimed):
                if not self._leases.holds(assignment.attempt_id):
                    self._start(assignment)

    async def drain(self) -> None:
        """Wait for the attempts that are running."""
        if self._running:
            await asyncio.wait(self._running)

    async def _claim(self, claim_id: str) -> _Claimed:
        if self._leases.takes_token_keys:
            try:
                return await self._ask(claim_id, self._token_key)
            except Rejected as e:
                # By a scheduler of the version before, beside the one we registered with.
                if e.code != "request-malformed":
                    raise
        return await self._ask(claim_id, "")

    async def _ask(self, claim_id: str, token_key: str) -> _Claimed:
        request = messages.Claim(
            claim_id=claim_id,
            incarnation=self._incarnation,
            slots=min(self._free, CLAIM_SLOTS_MAX),
            pool=self._pool,
            wait_s=self.wait_s,
            token_key=token_key,
        )
        return await rpc.ask(
            self._broker,
            self._runner_id,
            "claim",
            request,
            _Claimed,
            timeout_s=self.wait_s + self.margin_s,
        )

    def _start(self, assignment: messages.Assignment) -> None:
        self._free -= 1
        if self._free <= 0:
            self._slot_free.clear()
        task = asyncio.create_task(self._run(assignment), name=assignment.attempt_id)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free += 1
        self._slot_free.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt ended by an error", attempt_id=task.get_name(), exc_info=error)


def _readable(claimed: _Claimed) -> Iterator[messages.Assignment]:
    for told in claimed.assignments:
        try:
            yield messages.Assignment.model_validate(told)
        except ValidationError as e:
            log.error(
                "this runner is too old for a task: replace it",
                task_id=told.get("task_id"),
                attempt_id=told.get("attempt_id"),
                why=[".".join(map(str, error["loc"])) for error in e.errors()],
            )
