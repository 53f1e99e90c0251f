"""The relay when something is lost: the stream or its end, the broker, the lead, the database."""

import asyncio
import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import scheduler_hub
from nats_server import NatsServer
from scheduler_hub import SPEC, Hub, scheduler, until
from sqlalchemy import text
from structlog.testing import capture_logs
from wfhub_common import db, signing, subjects
from wfhub_common.messages import CloudEvent, SubmitTask
from wfhub_scheduler import batches, relay
from wfhub_scheduler.batches import Entry, OutOfStep
from wfhub_scheduler.core import Core
from wfhub_scheduler.settings import SchedulerSettings
from wfhub_scheduler.submission import submit_task
from wfhub_scheduler.timing import Timing


def positions(events: Sequence[CloudEvent]) -> list[tuple[int, int]]:
    return [(event.wfhubgeneration, event.wfhubpos) for event in events]


def dense(count: int, generation: int = 1) -> list[tuple[int, int]]:
    return [(generation, pos) for pos in range(1, count + 1)]


async def write_events(hub: Hub, count: int) -> None:
    """Without a scheduler, or while it has no broker."""
    engine = db.make_engine(hub.settings.database_url, application="test")
    core = Core(engine, hub.broker, Timing(30, 10, 1))
    for _ in range(count):
        await submit_task(core, SubmitTask(project="default", spec=SPEC))
    await engine.dispose()


@pytest.fixture
def nats_server(tmp_path: Path) -> NatsServer:
    return NatsServer(tmp_path)


@pytest.fixture
async def shaky_hub(nats_server: NatsServer, settings: SchedulerSettings) -> AsyncIterator[Hub]:
    nats_server.start()
    own = settings.model_copy(update={"nats_url": nats_server.url})
    key = signing.load_private_key(own.proof_public_key_file.removesuffix(".pub"))
    async with scheduler_hub.hub(own, key) as made, scheduler(own):
        yield await scheduler_hub.answering(made)
    nats_server.kill()


async def reconnected(hub: Hub) -> None:
    """The test; and the scheduler, which does so in its own time."""

    async def connected() -> bool:
        if not hub.broker.connection.is_connected:
            return False
        with contextlib.suppress(Exception):
            await hub.broker.connection.jetstream(timeout=0.3).account_info()
            return True
        return False

    await until(connected, "reconnected")
    await scheduler_hub.answering(hub)


# --- the stream and the broker ----------------------------------------------------------------


@pytest.mark.parametrize("wiped", [False, True])
async def test_positions_are_given_while_nats_is_down_and_published_when_it_is_back(
    shaky_hub: Hub, nats_server: NatsServer, wiped: bool
) -> None:
    await shaky_hub.submit()
    await shaky_hub.all_published()
    nats_server.kill()
    await write_events(shaky_hub, 4)

    async def placed() -> bool:
        return bool(await shaky_hub.pg.fetchval("SELECT last_pos = 5 FROM sched.relay"))

    await until(placed, "positions are given")
    nats_server.start(wiped=wiped)
    await reconnected(shaky_hub)
    assert positions(await shaky_hub.all_published()) == dense(5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_of_nats_is_named_and_events_follow_when_there_is_room(
    settings: SchedulerSettings, small_disk: Path
) -> None:
    # Else it offers a part of the disk, and refuses to make streams that may grow beyond it.
    server = NatsServer(small_disk, config="jetstream { max_file_store: 100GB }")
    server.start()
    own = settings.model_copy(update={"nats_url": server.url})
    key = signing.load_private_key(own.proof_public_key_file.removesuffix(".pub"))
    try:
        with capture_logs() as logs:
            async with scheduler_hub.hub(own, key) as made, scheduler(own):
                hub = await scheduler_hub.answering(made)
                await hub.submit()
                await hub.all_published()
                filler = small_disk / "filler"
                fill(filler)
                await write_events(hub, 4)

                async def named() -> bool:
                    said = [each for each in logs if each["event"] == "events not published yet"]
                    return any("the disk of NATS is or was full" in each["why"] for each in said)

                await until(named, "the disk is named")
                server.kill()
                filler.unlink()
                server.start()
                await reconnected(hub)
                assert positions(await hub.all_published()) == dense(5)
    finally:
        server.kill()


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as output:
        while True:
            output.write(bytes(4096))


async def test_a_stream_that_lost_its_end_gets_it_again(
    shaky_hub: Hub, nats_server: NatsServer
) -> None:
    await shaky_hub.submit()
    await shaky_hub.all_published()
    nats_server.kill()
    nats_server.keep_copy()
    nats_server.start()
    await reconnected(shaky_hub)
    for _ in range(3):
        await shaky_hub.submit()
    before = await shaky_hub.all_published()
    nats_server.kill()
    nats_server.put_copy_back()
    nats_server.start()
    await reconnected(shaky_hub)
    after = await shaky_hub.all_published()
    assert positions(after) == dense(4)
    assert [event.id for event in after] == [event.id for event in before]


async def test_a_stream_deleted_again_and_again_while_it_is_written_to_ends_up_whole(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the deletions hit between the messages of a batch."""
    js = hub.broker.connection.jetstream()
    send, deleted = batches._send, Counter[str]()

    async def hit(client: Any, entries: Sequence[Entry], last_seq: int, **more: Any) -> Any:
        if len(entries) < 20 or deleted["in a batch"] == 5:
            return await send(client, entries, last_seq, **more)
        deleted["in a batch"] += 1
        sending = asyncio.create_task(send(client, entries, last_seq, **more))
        await js.delete_stream(subjects.EVENTS_STREAM)
        return await sending

    monkeypatch.setattr(batches, "_send", hit)
    for _ in range(10):
        await asyncio.gather(*(hub.submit() for _ in range(60)))
        if deleted["in a batch"] == 5:
            break
        await hub.all_published()
    events = await hub.all_published()
    assert deleted["in a batch"] == 5
    assert positions(events) == dense(len(events))
    assert {event.id for event in events} == set(await hub.event_ids())


async def test_a_batch_is_bounded_in_bytes(hub: Hub) -> None:
    await hub.pg.execute(
        """
        WITH batch AS (
            INSERT INTO sched.event_batch (events) SELECT 1 FROM generate_series(1, 200)
            RETURNING batch_id)
        INSERT INTO sched.event (batch_id, event_id, project_id, task_id, kind, entity_id, type,
                                 data)
        SELECT batch_id, 'evt_' || batch_id, 'prj_a', 'tsk_a', 'task', 'tsk_a', 'task.test',
               json_build_object('text', repeat('x', 100000))
          FROM batch
        """
    )
    events = await hub.all_published()
    assert positions(events) == dense(200)
    js = hub.broker.connection.jetstream()
    written: Counter[str] = Counter()
    for seq in range(1, 201):
        message = await js.get_msg(subjects.EVENTS_STREAM, seq=seq)
        assert message.headers is not None
        written[message.headers["Nats-Batch-Id"]] += len(message.data or b"")
    assert len(written) >= 3
    assert max(written.values()) <= batches.BATCH_BYTES_MAX


# --- the lead ---------------------------------------------------------------------------------


async def test_two_that_both_believe_to_lead_write_nothing_twice(
    idle_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_TRY_LOCK", text("SELECT CAST(:name AS text) IS NOT NULL"))
    async with scheduler(idle_hub.settings), scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        for _ in range(5):
            await asyncio.gather(*(idle_hub.submit() for _ in range(40)))
        events = await idle_hub.all_published()
    assert positions(events) == dense(200)


async def test_a_leader_that_stands_still_is_replaced_and_what_it_writes_late_is_refused(
    idle_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, stood_still = batches.publish, asyncio.Event()
    go_on, late = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def standing_still(client: Any, entries: Sequence[Entry], *, last_seq: int) -> int:
        if stood_still.is_set():
            return await publish(client, entries, last_seq=last_seq)
        stood_still.set()
        await go_on.wait()
        try:
            return await publish(client, entries, last_seq=last_seq)
        except OutOfStep as e:
            late.set_result(e)
            raise

    monkeypatch.setattr(batches, "publish", standing_still)
    impatient = ("SET idle_session_timeout = '1s'", *relay._LEADERS_SESSION[1:])
    monkeypatch.setattr(relay, "_LEADERS_SESSION", impatient)
    async with scheduler(idle_hub.settings), scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        await idle_hub.submit()
        await stood_still.wait()
        await idle_hub.submit()
        assert positions(await idle_hub.all_published()) == dense(2)
        go_on.set()
        assert "wrong last sequence" in str(await late)
        await idle_hub.submit()
        assert positions(await idle_hub.all_published()) == dense(3)


# --- the database -----------------------------------------------------------------------------


async def test_a_restored_copy_begins_a_generation_though_the_stream_shows_no_difference(
    idle_hub: Hub, postgres_server: str
) -> None:
    async with scheduler(idle_hub.settings):
        await scheduler_hub.answering(idle_hub)
        await idle_hub.submit()
        known = await idle_hub.all_published()
        await until(lambda: all_noted(idle_hub), "it is noted that all is published")
    async with restored(idle_hub, postgres_server) as copy:
        for _ in range(2):  # only once: the copy is at home now
            async with scheduler(copy.settings):
                await scheduler_hub.answering(copy)
                await copy.submit()
                events = await copy.all_published()
    assert positions(events) == [*positions(known), *dense(2, generation=2)]


async def all_noted(hub: Hub) -> bool:
    return bool(await hub.pg.fetchval("SELECT published_pos = last_pos FROM sched.relay"))


@contextlib.asynccontextmanager
async def restored(hub: Hub, postgres_server: str) -> AsyncIterator[Hub]:
    """The same hub on a copy of its database, as from a backup."""
    original, name = hub.settings.database_url.rpartition("/")[2], "restored_copy"
    await hub.pg.close()
    admin = await asyncpg.connect(postgres_server + "/postgres")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {original}")
    hub.settings = hub.settings.model_copy(update={"database_url": f"{postgres_server}/{name}"})
    hub.pg = await asyncpg.connect(hub.settings.database_url)
    yield hub
    await hub.pg.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
