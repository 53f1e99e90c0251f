"""Deliverer: claims webhooks that are behind the log, and works on each in a task of its own.

A run goes from event to event in the log's order, one at a time, until the webhook is at the end
of the log, an attempt failed, RUN_S_MAX are over or the process stops. The lease is looked at
before each request, and it outlasts the request. A process that dies leaves its leases to expire:
at most the event it was at is sent again.
Units: seconds.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, sealed
from wfhub_common.errors import LeaseLost, Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import CloudEvent
from wfhub_common.metrics import Metrics
from wfhub_common.sealed import Unopened
from wfhub_common.service import Stop

from wfhub_api import sealing, views, wakeups
from wfhub_api.positions import Position
from wfhub_api.settings import ApiSettings
from wfhub_api.wakeups import Wakeups
from wfhub_api.webhooks import cursors, patterns, retries, sending, targets
from wfhub_api.webhooks.cursors import Claimed
from wfhub_api.webhooks.figures import Figures
from wfhub_api.webhooks.gaps import gap
from wfhub_api.webhooks.rows import WEBHOOKS_MAX
from wfhub_api.webhooks.sending import Channel

RUNS_MAX = WEBHOOKS_MAX  # at once: a hanging receiver takes nobody else's place
STATEMENTS_MAX = 4  # of the pool's connections: requests need the others
POLL_S = 1.0
GATHER_S = 0.01  # hints come one an event: what comes so soon is claimed together
PAGE_EVENTS = 100
LEASE_LEFT = 1.5  # requests that it has to be good for
RUN_S_MAX = 60.0  # then the name is resolved anew
STOP_S_MAX = 5.0  # for requests under way, when the process stops

log = get_logger(__name__)
T = TypeVar("T")


class Deliverer:
    def __init__(
        self,
        engine: AsyncEngine,
        hints: Wakeups,
        stop: Stop,
        settings: ApiSettings,
        metrics: Metrics,
    ) -> None:
        self.rules = settings.webhook_rules()
        self.keys = sealed.keys(settings.sealing_keys)
        self._engine, self._hints, self._stop, self._settings = engine, hints, stop, settings
        self._figures = Figures(metrics, engine)
        self._statements = asyncio.Semaphore(STATEMENTS_MAX)
        self._threads = ThreadPoolExecutor(RUNS_MAX, thread_name_prefix="webhook-names")
        self._authorities: ssl.SSLContext | None = None
        self._runs: set[asyncio.Task[None]] = set()
        self._hinted, self._woken = asyncio.Event(), asyncio.Event()
        self._at_work, self._looked_at = False, -POLL_S

    def wake(self) -> None:
        self._looked_at = -POLL_S
        self._hinted.set()
        self._woken.set()

    async def run(self) -> None:
        """Until it is cancelled, or the process stops."""
        with self._hints.of_all(self._hinted):
            while not self._stop.event.is_set():
                await self._claim()
                # A log that nobody is told of costs a look a second, however busy it is.
                await wakeups.wait(self._hinted if self._at_work else self._woken, POLL_S)
                await asyncio.sleep(GATHER_S)

    async def close(self) -> None:
        """Requests under way have STOP_S_MAX; then their webhooks are given back as they are."""
        if self._runs:
            await asyncio.wait(self._runs, timeout=STOP_S_MAX)
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def channel(self, url: str) -> Channel:
        """Raises: Rejected: the operator's rules are others by now."""
        return Channel(
            targets.parse(url, self.rules),
            self.rules,
            threads=self._threads,
            trusted=self._trusted(),
            timeout_s=self._settings.webhook_timeout_s,
        )

    def _trusted(self) -> ssl.SSLContext:
        """Read when first needed: a start has no use for it."""
        if self._authorities is None:
            self._authorities = sending.trusting(self._settings.webhook_ca_file)
        return self._authorities

    async def attempt(
        self, channel: Channel, event: CloudEvent, webhook_id: str, stored_secrets: list[str]
    ) -> retries.Outcome:
        began = time.monotonic()
        try:
            secrets = [sealing.opened(self.keys, webhook_id, each) for each in stored_secrets]
        except Unopened as e:
            outcome: retries.Outcome = retries.Unreached("secret-unopened", str(e))
        else:
            outcome = await channel.send(event, secrets)
        self._figures.tried(outcome, time.monotonic() - began)
        return outcome

    async def _claim(self) -> None:
        room = RUNS_MAX - len(self._runs)
        if room <= 0:
            return
        began = time.monotonic()
        try:
            lease_s = self._settings.webhook_lease_s
            if began - self._looked_at >= POLL_S:
                self._looked_at = began  # before: who wakes us meanwhile wants another look
                self._at_work = await self._asked(cursors.any_at_work(self._engine))
            if not self._at_work:
                return
            claimed = await self._asked(cursors.claim(self._engine, limit=room, lease_s=lease_s))
        except RetryLater as e:
            log.warning("webhooks wait for the database", why=e.message[:300])
        except Exception as e:
            if not db.is_unready(e):
                log.exception("webhooks could not be claimed")
        else:
            for hook in claimed:
                run = asyncio.create_task(self._worked_on(hook, began))
                self._runs.add(run)
                run.add_done_callback(self._runs.discard)

    async def _worked_on(self, hook: Claimed, claimed_at: float) -> None:
        try:
            await _Run(self, hook, claimed_at).go()
        except LeaseLost:
            log.warning("webhook is another's by now", webhook_id=hook.webhook_id)
        except RetryLater as e:  # its lease expires
            log.warning("webhook put off", webhook_id=hook.webhook_id, why=e.message[:300])
        except asyncio.CancelledError:
            with suppress(Exception):
                await self._asked(cursors.release(self._engine, hook))
            raise
        except Exception:  # the lease expires, so that it is not tried at once, again and again
            log.exception("webhook not worked on", webhook_id=hook.webhook_id)
        self.wake()  # what came between its last look and its release

    async def _asked(self, statement: Awaitable[T]) -> T:
        async with self._statements:
            return await statement


class _Run:
    def __init__(self, deliverer: Deliverer, hook: Claimed, claimed_at: float) -> None:
        self._of, self._hook = deliverer, hook
        self._began = self._leased_at = claimed_at
        self._reached = hook.at  # the cursor follows; what lies between was not asked for
        self._note: str | None = None

    async def go(self) -> None:
        of, hook = self._of, self._hook
        try:
            channel = of.channel(hook.url)
        except Rejected as e:
            await self._failed(retries.Unreached("forbidden-address", e.message))
            return
        try:
            while not self._over() and (page := await self._page()):
                for event in page:
                    if self._over() or not await self._done(channel, event):
                        break
            if hook.lease:
                await self._catch_up()
                await of._asked(cursors.release(of._engine, hook))
        finally:
            await channel.close()

    def _over(self) -> bool:
        ended = self._hook.shut or not self._hook.lease or self._of._stop.event.is_set()
        return ended or time.monotonic() - self._began > RUN_S_MAX

    async def _page(self) -> list[CloudEvent]:
        of = self._of
        return await of._asked(views.events(of._engine, after=self._reached, limit=PAGE_EVENTS))

    async def _done(self, channel: Channel, event: CloudEvent) -> bool:
        """False: the run ends here."""
        hook, at = self._hook, Position(event.wfhubgeneration, event.wfhubpos)
        if missed := gap(self._reached, at):
            self._note, self._reached = missed, Position(at.generation, at.pos - 1)
        ours = hook.project_id in (None, event.wfhubproject)
        if not ours or not patterns.wanted(event.type, hook.events):
            self._reached = at
            return True
        await self._keep_lease()
        if hook.shut:
            return False
        outcome = await self._of.attempt(channel, event, hook.webhook_id, hook.stored_secrets)
        if not isinstance(outcome, retries.Delivered):
            await self._failed(outcome)
            return False
        await self._moved(at, outcome.status)
        return True

    async def _keep_lease(self) -> None:
        """It has to outlast the next request, or somebody else may be at that too."""
        settings = self._of._settings
        left_s = self._leased_at + settings.webhook_lease_s - time.monotonic()
        if left_s < LEASE_LEFT * settings.webhook_timeout_s:
            await self._moved(self._reached, None)

    async def _catch_up(self) -> None:
        if self._reached != self._hook.at or self._note:
            await self._moved(self._reached, None)

    async def _moved(self, to: Position, status: int | None) -> None:
        of, began, note = self._of, time.monotonic(), self._note
        if note:
            log.warning("webhook missed events", webhook_id=self._hook.webhook_id, note=note)
        lease_s = of._settings.webhook_lease_s
        await of._asked(
            cursors.moved(of._engine, self._hook, to, lease_s=lease_s, status=status, note=note)
        )
        self._reached, self._leased_at, self._note = to, began, None

    async def _failed(self, outcome: retries.Outcome) -> None:
        of, hook = self._of, self._hook
        await self._catch_up()
        wait_s = retries.delay_s(
            hook.failures + 1,
            base_s=of._settings.webhook_retry_base_s,
            jitter=random.random(),  # noqa: S311 - jitter
            retry_after_s=outcome.retry_after_s if isinstance(outcome, retries.Refused) else None,
        )
        disabled = await of._asked(cursors.failed(of._engine, hook, outcome, wait_s))
        hook.lease = ""
        why = outcome.why if isinstance(outcome, retries.Unreached) else None
        told = {"webhook_id": hook.webhook_id, "outcome": outcome.outcome, "why": why}
        if disabled:
            log.error("webhook disabled", reason=disabled, status=outcome.status, **told)
            return
        log.info("webhook failed", status=outcome.status, retry_s=round(wait_s, 1), **told)
        asyncio.get_running_loop().call_later(wait_s, of.wake)
