"""The relay: dense positions, in order, replayed after any loss of the stream, never mixed up."""

import asyncio
import contextlib
from collections import Counter

import scheduler_hub
from pydantic import ValidationError
from scheduler_hub import SPEC, Hub, Runner, scheduler, until
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, streams, subjects
from wfhub_common.messages import CloudEvent, SubmitTask
from wfhub_scheduler import ledger
from wfhub_scheduler.core import Core
from wfhub_scheduler.submission import submit_task
from wfhub_scheduler.timing import Timing

NAMES = (
    subjects.EVENTS_STREAM,
    subjects.INGEST_STREAM,
    subjects.LOGS_STREAM,
    subjects.DLQ_STREAM,
)


def positions(events: list[CloudEvent]) -> list[tuple[int, int]]:
    return [(event.wfhubgeneration, event.wfhubpos) for event in events]


def deduped(events: list[CloudEvent]) -> list[CloudEvent]:
    """As a subscriber sees them: the first of each id."""
    return list({event.id: event for event in reversed(events)}.values())[::-1]


def dense(count: int, generation: int = 1) -> list[tuple[int, int]]:
    return [(generation, pos) for pos in range(1, count + 1)]


async def test_positions_are_dense_and_ordered_under_concurrent_writers(hub: Hub) -> None:
    async with scheduler(hub.settings):
        await asyncio.gather(*(hub.submit() for _ in range(60)))
        runners = [await hub.runner() for _ in range(3)]
        await asyncio.gather(*map(_claim_all, runners))
        events = await hub.all_published()
    assert positions(events) == dense(60 * 3)
    rows = await hub.pg.fetch("SELECT event_id FROM sched.api_event ORDER BY generation, pos")
    assert [event.id for event in events] == [row["event_id"] for row in rows]
    for task_id in {event.subject for event in events if event.type == "task.submitted"}:
        of_task = [e.type for e in events if task_id in (e.subject, e.data.get("task_id"))]
        assert of_task == ["task.submitted", "attempt.state_changed", "task.state_changed"]


async def _claim_all(runner: Runner) -> None:
    while await runner.claim(5, wait_s=0):
        pass


async def test_a_message_says_its_position_in_headers_and_is_a_cloud_event(hub: Hub) -> None:
    task_id = (await hub.submit()).task_id
    (event,) = await hub.all_published()
    message = await hub.broker.connection.jetstream().get_msg(subjects.EVENTS_STREAM, seq=1)
    assert message.headers is not None
    assert message.headers["wfhub-pos"] == "1"
    assert message.headers["wfhub-generation"] == "1"
    assert message.headers["Nats-Msg-Id"] == event.id
    assert message.subject == f"wfhub.v1.evt.{event.wfhubproject}.task.{task_id}.submitted"
    assert (event.type, event.subject) == ("task.submitted", task_id)


async def test_a_purged_stream_is_filled_again(hub: Hub) -> None:
    await hub.submit()
    before = await hub.all_published()
    js = hub.broker.connection.jetstream()
    await js.purge_stream(subjects.EVENTS_STREAM)
    await hub.submit()
    after = await hub.all_published()
    assert positions(deduped(after)) == dense(len(before) + 1)
    assert positions(after) == dense(len(before) + 1)


async def test_what_others_wrote_behind_our_events_is_passed_over(hub: Hub) -> None:
    await hub.submit()
    before = await hub.all_published()
    js = hub.broker.connection.jetstream()
    for n in range(3):
        await js.publish(subjects.event("prj_x", "task", "tsk_x", "made-up"), b"%d" % n)
    await hub.submit()
    wanted = set(await hub.event_ids())

    async def found() -> Counter[str]:
        state = (await js.stream_info(subjects.EVENTS_STREAM)).state
        ids: Counter[str] = Counter()
        for seq in range(state.first_seq, state.last_seq + 1):
            with contextlib.suppress(ValidationError):
                raw = (await js.get_msg(subjects.EVENTS_STREAM, seq=seq)).data or b""
                ids[CloudEvent.model_validate_json(raw).id] += 1
        return ids if ids.keys() >= wanted else Counter()

    assert {event.id for event in before} < wanted
    assert await until(found) == Counter(dict.fromkeys(wanted, 1))


async def test_deleted_streams_are_made_and_filled_again(hub: Hub) -> None:
    await hub.submit()
    await hub.submit()
    before = await hub.all_published()
    js = hub.broker.connection.jetstream()
    for name in NAMES:
        await js.delete_stream(name)
    after = await hub.all_published()  # without a new event: looked for, not stumbled upon
    assert [event.id for event in after] == [event.id for event in before]
    for name in NAMES:
        await until(lambda name=name: js.stream_info(name), name)


async def test_a_restarted_relay_goes_on_without_doubles(idle_hub: Hub) -> None:
    for _ in range(3):
        async with scheduler(idle_hub.settings):
            await scheduler_hub.answering(idle_hub)
            await idle_hub.submit()
            await idle_hub.all_published()
    assert positions(await idle_hub.published()) == dense(3)


async def test_an_acknowledgement_that_was_lost_repeats_nothing(idle_hub: Hub) -> None:
    """The batch is in the stream; that it was published was never noted."""
    async with scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        await idle_hub.submit()
        await idle_hub.all_published()
    await idle_hub.pg.execute("UPDATE sched.relay SET published_pos = 0")
    async with scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        await idle_hub.submit()
        events = await idle_hub.all_published()
    assert positions(events) == dense(2)


async def test_a_stream_ahead_of_the_database_begins_a_generation(idle_hub: Hub) -> None:
    """The database was restored to before the last events; the stream remembers them."""
    async with scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        for _ in range(3):
            await idle_hub.submit()
        known = await idle_hub.all_published()
    await as_of_position_1(idle_hub)
    async with scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        await idle_hub.submit()
        events = await idle_hub.all_published()
    assert positions(events) == [*positions(known), (2, 1)]


async def test_positions_given_before_the_difference_was_seen_move_to_the_new_generation(
    idle_hub: Hub,
) -> None:
    """Restored, and as many events written since as the stream has: no position is ahead."""
    async with scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        for _ in range(3):
            await idle_hub.submit()
        known = await idle_hub.all_published()
    await as_of_position_1(idle_hub)
    engine = db.make_engine(idle_hub.settings.database_url, application="test")
    await write_events(engine, idle_hub, count=5)
    await idle_hub.pg.execute(
        "UPDATE sched.event_batch b SET generation = 1, up_to = f.n + 1 FROM"
        " (SELECT batch_id, row_number() OVER (ORDER BY batch_id) AS n FROM sched.event_batch"
        "   WHERE up_to IS NULL) f WHERE b.batch_id = f.batch_id"
    )
    await idle_hub.pg.execute("UPDATE sched.relay SET last_pos = 6")
    async with scheduler(idle_hub.settings):
        events = await idle_hub.all_published()
    await engine.dispose()
    assert positions(events) == [*positions(known), *dense(5, generation=2)]


async def as_of_position_1(hub: Hub) -> None:
    """As a backup taken then would be, restored."""
    await hub.pg.execute(
        "WITH lost AS (DELETE FROM sched.event_batch WHERE up_to > 1 RETURNING batch_id)"
        " DELETE FROM sched.event e USING lost WHERE e.batch_id = lost.batch_id"
    )
    await hub.pg.execute("UPDATE sched.relay SET last_pos = 1, published_pos = 1")


async def write_events(engine: AsyncEngine, hub: Hub, *, count: int) -> None:
    core = Core(engine, hub.broker, Timing(30, 10, 1))
    for _ in range(count):
        await submit_task(core, SubmitTask(project="default", spec=SPEC))


async def test_two_schedulers_have_one_relay_and_the_other_takes_over(idle_hub: Hub) -> None:
    async with scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        async with scheduler(idle_hub.settings):
            await asyncio.gather(*(idle_hub.submit() for _ in range(10)))
            await idle_hub.all_published()
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            assert await idle_hub.pg.fetchval(locks) == 1
        await asyncio.gather(*(idle_hub.submit() for _ in range(10)))
        await idle_hub.all_published()
    assert positions(await idle_hub.published()) == dense(20)


async def test_a_relay_that_lost_its_connection_begins_again(hub: Hub) -> None:
    await hub.submit()
    await hub.all_published()
    await hub.pg.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    )
    await hub.submit()
    assert positions(await hub.all_published()) == dense(2)


async def test_an_event_too_large_for_a_message_is_published_without_its_data(hub: Hub) -> None:
    await hub.pg.execute(
        """
        WITH batch AS (INSERT INTO sched.event_batch (events) VALUES (2) RETURNING batch_id)
        INSERT INTO sched.event (batch_id, n, event_id, project_id, task_id, kind, entity_id, type,
                                 data)
        SELECT batch_id, nr, 'evt_' || n, 'prj_a', 'tsk_a', 'task', 'tsk_a', 'task.test',
               json_build_object('text', repeat('x', n))
          FROM batch, unnest(ARRAY[200000, 10]) WITH ORDINALITY AS u (n, nr)
        """
    )
    large, small = await hub.all_published()
    assert large.data == {"oversized_chars": 200_000 + len('{"text" : ""}')}
    assert small.data == {"text": "x" * 10}
    assert positions([large, small]) == dense(2)


async def test_events_that_are_too_old_are_not_carried_and_then_forgotten(hub: Hub) -> None:
    await hub.pg.execute(
        """
        WITH batch AS (
            INSERT INTO sched.event_batch (time)
            SELECT CASE WHEN n <= 5 THEN now() - make_interval(secs => $1) ELSE now() END
              FROM generate_series(1, 1505) n RETURNING batch_id)
        INSERT INTO sched.event (batch_id, event_id, project_id, task_id, kind, entity_id, type,
                                 data)
        SELECT batch_id, 'evt_' || batch_id, 'prj_a', 'tsk_a', 'task', 'tsk_a', 'task.test', '{}'
          FROM batch
        """,
        streams.EVENTS_AGE_S + 7200,
    )

    async def all_there() -> bool:
        info = await hub.broker.connection.jetstream().stream_info(subjects.EVENTS_STREAM)
        return info.state.messages >= 1500

    await until(all_there, "all events that are not too old")
    events = await hub.published()
    assert [pos for _, pos in positions(events)] == list(range(6, 1506))
    engine = db.make_engine(hub.settings.database_url, application="test")
    async with engine.begin() as connection:
        assert await ledger.forget_old(connection) == 5
    await engine.dispose()
    assert await hub.pg.fetchval("SELECT min(pos) FROM sched.api_event") == 6
