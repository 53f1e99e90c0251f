"""Test support: speaks to a running scheduler as the API, as runners and as the gateway do, over
real NATS, looks into its Postgres, and answers `seal` in the proof-store's place.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg
from faststream.nats import NatsBroker
from nats.js.errors import NotFoundError
from pydantic import BaseModel
from wfhub_common import broker as rpc
from wfhub_common import digests, ids, receipts, signing, subjects
from wfhub_common.errors import WfhubError
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    Assignment,
    AttemptState,
    Cancelled,
    CancelTask,
    Claim,
    Claimed,
    CloudEvent,
    Complete,
    Completed,
    Heartbeat,
    HeartbeatReply,
    Receipt,
    Register,
    Registered,
    Report,
    Reported,
    RunnerObservations,
    Sealed,
    SealProof,
    SubmitTask,
    Submitted,
    TaskSpec,
    UnitKind,
    Verdict,
    VerdictStatus,
)
from wfhub_common.service import Stop
from wfhub_common.settings import BrokerSettings
from wfhub_scheduler import main
from wfhub_scheduler.settings import SchedulerSettings

WAIT_S = 60.0  # for what a busy machine does late; what may be late is asserted itself
COMMIT, BASE_COMMIT = "c" * 40, "b" * 40
SPEC = TaskSpec(repo="/srv/demo", prompt="Fix the bug\n\nplease", verify=("pytest -q",))

R = TypeVar("R", bound=BaseModel)


async def until(look: Callable[[], Awaitable[Any]], what: str = "") -> Any:
    """What `look` answered when it first was true. Raises: TimeoutError after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not (found := await look()):  # noqa: ASYNC110 - a server changes it, no event
            await asyncio.sleep(0.02)
    return found


@dataclass
class Runner:
    """One incarnation of a runner: its own subject, its own claims."""

    hub: "Hub"
    runner_id: str = field(default_factory=ids.new_runner_id)
    incarnation: str = field(default_factory=ids.new_claim_id)
    labels: tuple[str, ...] = ()

    async def register(self) -> "Runner":
        await self.register_holding()
        return self

    async def register_holding(self, *attempts: str) -> tuple[str, ...]:
        """Which of them it may hand in."""
        request = Register(
            incarnation=self.incarnation,
            name="test",
            slots=4,
            labels=self.labels,
            holds=attempts,
        )
        reply = await self.hub.ask(self.runner_id, "register", request, Registered)
        return reply.kept

    def again(self) -> "Runner":
        """The same runner after a restart."""
        return Runner(self.hub, self.runner_id, labels=self.labels)

    async def claim(
        self, slots: int = 1, *, claim_id: str | None = None, wait_s: float = 25.0, **more: Any
    ) -> tuple[Assignment, ...]:
        request = Claim(
            claim_id=claim_id or ids.new_claim_id(),
            incarnation=self.incarnation,
            slots=slots,
            wait_s=wait_s,
            **more,
        )
        timeout_s = wait_s + WAIT_S
        claimed = await self.hub.ask(self.runner_id, "claim", request, Claimed, timeout_s=timeout_s)
        return claimed.assignments

    async def claim_one(self, kind: UnitKind = UnitKind.AGENT) -> Assignment:
        (assignment,) = await self.claim()
        assert assignment.kind is kind
        return assignment

    async def heartbeat(self, *attempts: str) -> HeartbeatReply:
        request = Heartbeat(incarnation=self.incarnation, attempts=attempts)
        beat = (self.runner_id, "heartbeat", request, HeartbeatReply)
        return await self.hub.ask(*beat, timeout_s=10.0)  # asked again by who waits for an answer

    async def report(
        self,
        attempt_id: str,
        state: AttemptState | None = None,
        step: str = "working",
        **fields: Any,
    ) -> Reported:
        request = Report.model_validate(
            {"attempt_id": attempt_id, "state": state, "step": step, "fields": fields}
        )
        return await self.hub.ask(self.runner_id, "report", request, Reported)

    async def complete(self, request: Complete) -> Completed:
        return await self.hub.ask(self.runner_id, "complete", request, Completed)

    def won(self, attempt_id: str, **more: Any) -> Complete:
        """A good completion of an agent attempt; `more` replaces fields of it."""
        fields = {
            "attempt_id": attempt_id,
            "outcome": AttemptState.WON,
            "receipts": (
                self.receipt(attempt_id, BUNDLE_ARTIFACT),
                self.receipt(attempt_id, "log"),
            ),
            "observed": self.observed(VerdictStatus.PASSED),
        }
        return Complete.model_validate({**fields, **more})

    def receipt(
        self, attempt_id: str, name: str, *, key: signing.PrivateKey | None = None
    ) -> Receipt:
        unsigned = Receipt(
            attempt_id=attempt_id,
            name=name,
            digest=digests.of_bytes(name.encode()),
            size=len(name),
            media_type="application/octet-stream",
            sender=self.runner_id,
            stored_at="2026-01-01T00:00:00Z",
        )
        return receipts.sign(unsigned, key or self.hub.key)

    def observed(self, verdict: VerdictStatus) -> RunnerObservations:
        return RunnerObservations(
            runner_id=self.runner_id,
            agent="builtin",
            commit=COMMIT,
            base_commit=BASE_COMMIT,
            verdict=Verdict(status=verdict),
        )


@dataclass
class Hub:
    """`seal_refusals` are answered first, one a question; `seal_open` holds answers back."""

    broker: NatsBroker
    pg: asyncpg.Connection
    settings: SchedulerSettings
    key: signing.PrivateKey
    seal_refusals: list[WfhubError] = field(default_factory=list)
    seal_questions: list[SealProof] = field(default_factory=list)
    seal_open: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(
        self,
        sender: str,
        command: str,
        request: BaseModel,
        reply_type: type[R],
        *,
        timeout_s: float = WAIT_S,
    ) -> R:
        return await rpc.ask(self.broker, sender, command, request, reply_type, timeout_s=timeout_s)

    async def submit(self, project: str = "default", **spec: Any) -> Submitted:
        request = SubmitTask(project=project, spec=SPEC.model_copy(update=spec))
        return await self.ask(subjects.API, "submit_task", request, Submitted)

    async def cancel(self, task_id: str) -> Cancelled:
        request = CancelTask(task_id=task_id, reason="changed my mind")
        return await self.ask(subjects.API, "cancel_task", request, Cancelled)

    async def runner(self, *labels: str) -> Runner:
        return await Runner(self, labels=labels).register()

    async def task(self, task_id: str) -> asyncpg.Record:
        row = await self.pg.fetchrow("SELECT * FROM sched.api_task WHERE task_id = $1", task_id)
        assert row is not None
        return row

    async def attempt(self, attempt_id: str) -> asyncpg.Record:
        row = await self.pg.fetchrow(
            "SELECT * FROM sched.api_attempt WHERE attempt_id = $1", attempt_id
        )
        assert row is not None
        return row

    async def in_state(self, task_id: str, state: str) -> None:
        async def look() -> bool:
            return bool((await self.task(task_id))["state"] == state)

        await until(look, state)

    async def published(self) -> list[CloudEvent]:
        """Every event in the stream, in the stream's order; none of one that is not there, or is
        deleted while it is read."""
        js = self.broker.connection.jetstream()
        found = []
        try:
            state = (await js.stream_info(subjects.EVENTS_STREAM)).state
            for seq in range(max(state.first_seq, 1), state.last_seq + 1):
                message = await js.get_msg(subjects.EVENTS_STREAM, seq=seq)
                found.append(CloudEvent.model_validate_json(message.data or b""))
        except NotFoundError:
            return []
        return found

    async def all_published(self) -> list[CloudEvent]:
        """The stream's events once it holds every row of the outbox."""

        async def look() -> list[CloudEvent]:
            wanted = set(await self.event_ids())
            events = await self.published()
            return events if {event.id for event in events} >= wanted else []

        events: list[CloudEvent] = await until(look, "the stream holds every event")
        return events

    async def event_ids(self) -> list[str]:
        rows = await self.pg.fetch("SELECT event_id FROM sched.event ORDER BY batch_id, n")
        return [row["event_id"] for row in rows]

    async def _seal(self, sender: str, asked: SealProof) -> Sealed:
        assert sender == subjects.SCHEDULER
        self.seal_questions.append(asked)
        await self.seal_open.wait()
        if self.seal_refusals:
            raise self.seal_refusals.pop(0)
        return Sealed(
            proof_id="prf_" + asked.scheduler.attempt_id.removeprefix("att_"),
            envelope_digest=digests.of_bytes(asked.scheduler.attempt_id.encode()),
            leaf_index=0,
            tokens=1234,
        )


@contextlib.asynccontextmanager
async def scheduler(settings: SchedulerSettings) -> AsyncIterator[asyncio.Task[None]]:
    """A scheduler in this process, stopped in order at the end."""
    stop = Stop()
    serving = asyncio.create_task(main.serve(settings, stop))
    try:
        yield serving
    finally:
        stop("signal TEST")
        await serving


@contextlib.asynccontextmanager
async def hub(settings: SchedulerSettings, key: signing.PrivateKey) -> AsyncIterator[Hub]:
    broker = rpc.make_broker(BrokerSettings(nats_url=settings.nats_url), name="test")
    pg = await asyncpg.connect(settings.database_url)
    made = Hub(broker, pg, settings, key)
    made.seal_open.set()
    rpc.serve(broker, "seal", SealProof, made._seal, queue=subjects.PROOF_STORE)
    await broker.start()
    try:
        yield made
    finally:
        await rpc.stop(broker)
        await pg.close()


async def answering(hub: Hub) -> Hub:
    """The hub once a scheduler answers."""

    async def look() -> bool:
        try:
            await Runner(hub).heartbeat()
        except WfhubError:
            return False
        return True

    await until(look, "the scheduler answers")
    return hub
