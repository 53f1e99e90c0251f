"""Schedules on a real Postgres: cores that take turns at once, outages, overlaps, commands."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import schedule_lab
import scheduler_hub
from schedule_lab import HOUR, TASK, Lab
from scheduler_hub import Hub, until
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    AttemptState,
    Complete,
    DeleteSchedule,
    FiringOutcome,
    Overlap,
    PreviewSchedule,
    PutSchedule,
    ReplayDeadLetter,
    Schedule,
    ScheduleSpec,
    TaskSpec,
)
from wfhub_scheduler.dead_letters import TURN_FAILURES_MAX
from wfhub_scheduler.replays import Replays
from wfhub_scheduler.schedules import commands, firing
from wfhub_scheduler.schedules.turns import Turns


@pytest.fixture
async def lab(database_url: str) -> AsyncIterator[Lab]:
    async with schedule_lab.opened(database_url) as made:
        yield made


# --- one firing an instant -------------------------------------------------------------------


async def test_an_instant_is_fired_once_whatever_the_replicas(lab: Lab) -> None:
    cores = [lab.core() for _ in range(3)]
    for n in range(20):
        await lab.put(f"s{n}", overlap="queue")
    await lab.due()
    for _ in range(3):
        await asyncio.gather(*(Turns(core).turn() for core in cores for _ in range(2)))
    assert await lab.firings() == [("fired", "")] * 20
    assert len(await lab.tasks("ready")) == 20
    assert len(await lab.events("schedule.fired")) == 20
    waits = await lab.pg.fetchval("SELECT min(next_fire_at) > now() FROM sched.schedule")
    assert waits


async def test_a_replica_that_dies_in_the_middle_leaves_nothing_and_another_fires(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.put()
    instant = await lab.due()
    dying, other = lab.core(), lab.core()
    reached, killed = asyncio.Event(), asyncio.Event()
    told = firing.tell

    async def hangs(connection: Any, *args: Any, **more: Any) -> None:
        await told(connection, *args, **more)
        if not reached.is_set():
            reached.set()
            await killed.wait()

    monkeypatch.setattr(firing, "tell", hangs)
    turning = asyncio.create_task(Turns(dying).turn())
    await reached.wait()  # the row and the task are written, the commit is not
    assert await Turns(other).turn() is False  # it neither waits for the lock nor fires
    assert await lab.firings() == []
    await lab.pg.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE state = 'idle in transaction' AND datname = current_database()"
    )
    killed.set()
    await asyncio.gather(turning, return_exceptions=True)
    while await Turns(other).turn():
        pass
    assert await lab.firings() == [("fired", "")]
    assert len(await lab.tasks()) == 1
    assert await lab.pg.fetchval("SELECT fire_at FROM sched.firing") == instant


async def test_an_instant_that_has_its_row_is_not_fired_again(lab: Lab) -> None:
    await lab.put()
    instant = await lab.due()
    await lab.turn()
    await lab.pg.execute("UPDATE sched.schedule SET next_fire_at = $1", instant)  # restored, say
    await lab.turn()
    assert len(await lab.tasks()) == 1


async def test_one_that_cannot_be_fired_holds_up_no_other(lab: Lab) -> None:
    await lab.put("broken")
    await lab.put("good")
    await lab.due()
    await lab.pg.execute(
        "UPDATE sched.schedule SET spec = '{}', next_fire_at = now() - interval '1 day'"
        " WHERE name = 'broken'"
    )
    await lab.turn()
    assert len(await lab.tasks()) == 1


async def test_jitter_puts_off_the_firing_not_the_instant(lab: Lab) -> None:
    await lab.put(jitter_s=600)
    instant = await lab.due()
    await lab.pg.execute("UPDATE sched.schedule SET next_jitter_ms = 500000")
    await lab.turn()
    assert await lab.firings() == []
    schedule_id = await lab.pg.fetchval("SELECT schedule_id FROM sched.schedule")
    assert await lab.pg.fetchval("SELECT next_fire_at FROM sched.schedule") == instant
    due = await lab.pg.fetchval("SELECT next_due_at FROM sched.api_schedule")
    assert due == instant + timedelta(seconds=500)
    assert schedule_id.startswith("sch_")


# --- outages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backfill_max", "outcomes"),
    [(0, ["missed"]), (1, ["missed", "fired"]), (2, ["missed", "fired", "waiting"])],
)
async def test_after_an_outage_so_many_instants_are_made_up_for(
    lab: Lab, backfill_max: int, outcomes: list[str]
) -> None:
    await lab.put(backfill_max=backfill_max, overlap="queue")
    newest = await lab.due(ago=timedelta(minutes=30), steps=5)
    await lab.turn()
    rows = await lab.pg.fetch("SELECT * FROM sched.firing ORDER BY fire_at")
    assert [row["outcome"] for row in rows] == outcomes
    assert rows[0]["fire_at"] == newest - 5 * HOUR
    assert rows[0]["until_at"] == newest - backfill_max * HOUR
    assert await lab.pg.fetchval("SELECT next_fire_at FROM sched.schedule") == newest + HOUR
    (skipped,) = await lab.events("schedule.skipped")
    assert '"missed"' in skipped["data"]


# --- overlaps --------------------------------------------------------------------------------


async def test_skip_lets_an_instant_go_while_one_is_at_work(lab: Lab) -> None:
    await lab.put(overlap="skip")
    await lab.due()
    await lab.turn()
    await lab.due()
    await lab.turn()
    assert await lab.firings() == [("fired", ""), ("skipped", "overlap")]
    (task_id,) = await lab.tasks()
    await lab.end(task_id)
    await lab.due()
    await lab.turn()
    assert [outcome for outcome, _ in await lab.firings()] == ["fired", "skipped", "fired"]


async def test_queue_starts_the_next_when_the_last_one_ended(lab: Lab) -> None:
    await lab.put(overlap="queue", backfill_max=20)
    await lab.due(ago=timedelta(minutes=5), steps=11)
    await lab.turn()
    outcomes = [outcome for outcome, _ in await lab.firings()]
    assert outcomes == ["fired", *["waiting"] * 10, "skipped"]
    for n in range(1, 4):
        (task_id,) = await lab.tasks("ready")
        await lab.end(task_id)
        await lab.turn()
        outcomes = [outcome for outcome, _ in await lab.firings()]
        assert outcomes[: n + 2] == ["fired"] * (n + 1) + ["waiting"]


async def test_two_schedulers_start_one_of_those_that_wait(lab: Lab) -> None:
    cores = [lab.core() for _ in range(3)]
    await lab.put(overlap="queue", backfill_max=20)
    await lab.due(ago=timedelta(minutes=5), steps=5)
    await lab.turn()
    (task_id,) = await lab.tasks()
    await lab.end(task_id)
    await asyncio.gather(*(Turns(core).turn() for core in cores))
    assert len(await lab.tasks("ready")) == 1


async def test_replace_cancels_the_one_at_work(lab: Lab) -> None:
    await lab.put(overlap="replace")
    await lab.due()
    await lab.turn()
    (first,) = await lab.tasks()
    await lab.due()
    await lab.turn()
    assert await lab.firings() == [("fired", ""), ("fired", "")]
    assert await lab.tasks("cancelled") == [first]
    assert len(await lab.tasks("ready")) == 1
    reason = await lab.pg.fetchval("SELECT message FROM sched.task WHERE task_id = $1", first)
    assert "replaced by the next firing" in reason


# --- a full queue ----------------------------------------------------------------------------


async def test_a_full_queue_is_tried_again_and_then_given_up(lab: Lab) -> None:
    await lab.put("other")
    await lab.fire(schedule="other")
    await lab.pg.execute("UPDATE sched.project SET queue_limit = 1")
    await lab.put()
    await lab.pg.execute("UPDATE sched.schedule SET next_fire_at = now() WHERE name = 'nightly'")
    await lab.pg.execute(
        "UPDATE sched.schedule SET anchor_at = next_fire_at WHERE name = 'nightly'"
    )
    for n in range(1, firing.QUEUE_TRIES_MAX):
        await lab.turn()
        row = await lab.pg.fetchrow("SELECT * FROM sched.firing WHERE outcome = 'waiting'")
        assert (row["reason"], row["tries"]) == ("queue-full", n)
        assert row["retry_at"] > await lab.pg.fetchval("SELECT now()")
        await lab.pg.execute("UPDATE sched.firing SET retry_at = now() WHERE outcome = 'waiting'")
    await lab.turn()
    assert await lab.firings() == [("fired", ""), ("skipped", "queue-full")]
    assert len(await lab.tasks()) == 1


async def test_replace_drops_what_still_waits_for_room(lab: Lab) -> None:
    await lab.put("other")
    await lab.fire(schedule="other")
    await lab.pg.execute("UPDATE sched.project SET queue_limit = 1")
    await lab.put(overlap="replace")
    assert (await lab.fire()).reason == "queue-full"
    assert (await lab.fire()).reason == "queue-full"
    assert (await lab.firings())[1:] == [("skipped", "replaced"), ("waiting", "queue-full")]


async def test_a_full_queue_that_empties_lets_the_firing_start(lab: Lab) -> None:
    await lab.put("other")
    other = await lab.fire(schedule="other")
    await lab.pg.execute("UPDATE sched.project SET queue_limit = 1")
    await lab.put()
    assert (await lab.fire()).outcome is FiringOutcome.WAITING
    assert other.task_id is not None
    await lab.end(other.task_id)
    await lab.pg.execute("UPDATE sched.firing SET retry_at = now() WHERE outcome = 'waiting'")
    await lab.turn()
    assert await lab.firings() == [("fired", ""), ("fired", "")]


# --- limits of the project -------------------------------------------------------------------

_MOST = """
UPDATE sched.project
   SET limits = '{"max": {"run_s": 60}, "default": {"cpu_millicores": 2000}}'
"""


async def test_a_task_that_asks_for_too_much_is_refused_with_its_schedule(lab: Lab) -> None:
    asks = {**TASK.model_dump(mode="json"), "limits": {"run_s": 90}}
    await lab.put("before", task=asks)
    await lab.pg.execute(_MOST)
    with pytest.raises(Rejected, match=r"limits\.run_s: 90 is more than"):
        await lab.put(task=asks)
    assert not (await lab.put("before", task=asks)).changed, "the same again asks for nothing"
    with pytest.raises(Rejected, match=r"limits\.run_s: 90 is more than"):
        await lab.fire(schedule="before")


async def test_a_firing_gets_the_limits_of_its_own_time(lab: Lab) -> None:
    await lab.put()
    await lab.pg.execute(_MOST)
    task_id = (await lab.fire()).task_id
    found = await lab.pg.fetchval("SELECT spec FROM sched.task WHERE task_id = $1", task_id)
    limits = TaskSpec.model_validate_json(found).limits
    assert (limits.run_s, limits.cpu_millicores) == (60, 2000)


# --- commands --------------------------------------------------------------------------------


async def test_the_same_content_again_changes_nothing(lab: Lab) -> None:
    first = await lab.put(cron="30 2 * * *", time_zone="Europe/Berlin")
    assert (first.created, first.changed, first.version) == (True, True, 1)
    again = await lab.put(cron="30 2 * * *", time_zone="Europe/Berlin")
    assert (again.created, again.changed, again.version) == (False, False, 1)
    assert again.next_fire_at == first.next_fire_at
    other = await lab.put(cron="31 2 * * *", time_zone="Europe/Berlin")
    assert (other.created, other.changed, other.version) == (False, True, 2)
    assert other.schedule_id == first.schedule_id
    changes = [row["data"] for row in await lab.events("schedule.changed")]
    assert ['"created"' in changes[0], '"changed"' in changes[1], len(changes)] == [True, True, 2]


async def test_many_who_put_it_at_once_make_one(lab: Lab) -> None:
    cores = [lab.core() for _ in range(4)]
    spec = ScheduleSpec(cron="@daily", task=TASK)
    command = PutSchedule(project="default", name="nightly", spec=spec)
    replies = await asyncio.gather(*(commands.put_schedule(core, command) for core in cores))
    assert len({reply.schedule_id for reply in replies}) == 1
    assert sorted(reply.created for reply in replies) == [False, False, False, True]


async def test_another_task_keeps_the_instant_and_another_interval_does_not(lab: Lab) -> None:
    await lab.put()
    instant = await lab.due(ago=timedelta(minutes=-10))
    changed = await lab.put(task=TASK.model_copy(update={"prompt": "other"}))
    assert changed.next_fire_at == instant
    changed = await lab.put(cron="@every 2h")
    assert changed.next_fire_at is not None
    assert changed.next_fire_at > instant + HOUR


async def test_a_paused_schedule_fires_nothing_and_makes_up_for_nothing(lab: Lab) -> None:
    await lab.put()
    assert (await lab.pause(True)).next_fire_at is None
    newest = await lab.due(ago=timedelta(minutes=5), steps=3)
    await lab.turn()
    assert await lab.firings() == []
    assert (await lab.put()).paused  # paused is not said: it stays as it is
    resumed = await lab.pause(False)
    assert resumed.next_fire_at == newest + HOUR
    await lab.turn()
    assert await lab.firings() == [("skipped", "paused")]
    span = await lab.pg.fetchrow("SELECT fire_at, until_at FROM sched.firing")
    assert (span["fire_at"], span["until_at"]) == (newest - 3 * HOUR, newest)


async def test_it_ends_with_its_end(lab: Lab) -> None:
    now = datetime.now(UTC)
    half, end = timedelta(minutes=30), timedelta(minutes=40)
    put = await lab.put(starts_at=now - half, ends_at=now + end)
    assert put.next_fire_at == now + half
    await lab.pg.execute("""
        UPDATE sched.schedule SET next_fire_at = next_fire_at - interval '31 min',
            spec = spec || jsonb_build_object(
                'starts_at', CAST(spec ->> 'starts_at' AS timestamptz) - interval '31 min',
                'ends_at', CAST(spec ->> 'ends_at' AS timestamptz) - interval '31 min')
        """)
    await lab.turn()
    assert await lab.firings() == [("fired", "")]
    assert await lab.pg.fetchval("SELECT next_fire_at FROM sched.schedule") is None


async def test_by_hand_it_fires_now_once_a_key_also_while_paused(lab: Lab) -> None:
    await lab.put()
    await lab.pause(True)
    first = await lab.fire("k1")
    assert (first.outcome, first.created) == (FiringOutcome.FIRED, True)
    again = await lab.fire("k1")
    assert (again.task_id, again.created) == (first.task_id, False)
    with pytest.raises(Rejected, match="still at work") as refused:
        await lab.fire("k2")
    assert (refused.value.code, refused.value.status) == ("schedule-busy", 409)
    assert await lab.firings() == [("fired", "")]  # the refused one left nothing
    task = await lab.pg.fetchrow("SELECT submitted_by, spec FROM sched.task")
    assert task["submitted_by"] == "schedule:nightly"


async def test_a_deleted_schedule_leaves_its_tasks(lab: Lab) -> None:
    await lab.put()
    await lab.fire()
    command = DeleteSchedule(project="default", schedule="nightly", changed_by="ann")
    await commands.delete_schedule(lab.one, command)
    assert len(await lab.tasks("ready")) == 1
    with pytest.raises(Rejected) as refused:
        await commands.delete_schedule(lab.one, command)
    assert (refused.value.code, refused.value.status) == ("schedule-unknown", 404)
    assert (await lab.put()).version == 1


async def test_a_preview_names_the_next_instants_in_local_time(lab: Lab) -> None:
    await lab.put(
        cron="30 2 * * *", time_zone="Europe/Berlin", starts_at=datetime(2030, 3, 30, tzinfo=UTC)
    )
    command = PreviewSchedule(project="default", schedule="nightly", count=3)
    found = await commands.preview_schedule(lab.one, command)
    assert [one.local for one in found.firings] == [
        "2030-03-30T02:30:00+01:00",
        "2030-03-31T03:00:00+02:00",  # the skipped hour
        "2030-04-01T02:30:00+02:00",
    ]


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"cron": "61 * * * *"}, "cron-invalid"),
        ({"cron": "@every 1s"}, "cron-invalid"),
        ({"time_zone": "Europe/Berlim"}, "time-zone-unknown"),
        ({"ends_at": datetime(2020, 1, 1, tzinfo=UTC)}, "schedule-never"),
        ({"cron": "* * */20 * 1L"}, "schedule-never"),
        ({"task": TASK.model_copy(update={"prompt": "\x00"})}, "nul-character"),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(
    lab: Lab, spec: dict[str, Any], code: str
) -> None:
    with pytest.raises(Rejected) as refused:
        await lab.put(**spec)
    assert refused.value.code == code
    assert await lab.pg.fetchval("SELECT count(*) FROM sched.schedule") == 0


async def test_old_firings_are_forgotten(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "FIRINGS_KEPT", 2)
    await lab.put()
    for _ in range(4):
        fired = await lab.fire()
        assert fired.task_id is not None
        await lab.end(fired.task_id)
    assert len(await lab.firings()) == 3  # two, and the one that came


# --- running schedulers ----------------------------------------------------------------------


async def test_two_running_schedulers_fire_each_instant_once_and_start_what_waits(
    hub: Hub,
) -> None:
    async with scheduler_hub.scheduler(hub.settings):
        spec = ScheduleSpec(cron="@every 1h", overlap=Overlap.QUEUE, backfill_max=5, task=TASK)
        command = PutSchedule(project="default", name="nightly", spec=spec)
        await hub.ask(subjects.API, "put_schedule", command, Schedule)
        await hub.pg.execute(
            "UPDATE sched.schedule SET anchor_at = now() - interval '4h',"
            " next_fire_at = now() - interval '4h'"
        )

        async def fired() -> list[str]:
            rows = await hub.pg.fetch("SELECT outcome FROM sched.firing ORDER BY fire_at")
            return [row["outcome"] for row in rows]

        async def all_taken() -> bool:
            return await fired() == ["fired", *["waiting"] * 4]

        await until(all_taken, "every instant has its firing")
        runner = await hub.runner()
        for n in range(1, 6):
            attempt = await runner.claim_one()
            assert (await fired()).count("fired") == n
            failed = Complete(attempt_id=attempt.attempt_id, outcome=AttemptState.FAILED)
            await runner.complete(failed)
        assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 5
        assert {e.type for e in await hub.all_published()} >= {
            "schedule.changed",
            "schedule.fired",
        }


async def test_a_scheduler_killed_while_it_fires_leaves_the_rest_to_another(
    lab: Lab, nats_url: str, tmp_path: Path
) -> None:
    for n in range(100):
        await lab.put(f"s{n}")
    await lab.due()
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": lab.database_url,
        "NATS_URL": nats_url,
        "PROOF_PUBLIC_KEY_FILE": str(tmp_path / "key.pub"),
    }

    def started() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "wfhub_scheduler.main"]
        return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)

    async def count() -> int:
        return int(await lab.pg.fetchval("SELECT count(*) FROM sched.firing"))

    async def begun() -> bool:
        return await count() > 0

    async def all_fired() -> bool:
        return await count() == 100

    async with lab.pg.transaction():
        # Nobody waits for these, so that some are left however late the kill comes.
        await lab.pg.execute("SELECT 1 FROM sched.schedule WHERE name LIKE 's9_' FOR UPDATE")
        first = started()
        await until(begun, "the first one fires")
        first.kill()
        first.wait(10)
        left = 100 - await count()
    second = started()
    try:
        await until(all_fired, "the second one fires the rest")
    finally:
        second.kill()
        second.wait(10)
    assert left >= 10
    assert await lab.firings() == [("fired", "")] * 100
    assert len(await lab.tasks("ready")) == 100


async def test_a_schedule_that_fails_again_and_again_is_put_aside_and_holds_up_no_other(
    lab: Lab,
) -> None:
    for name in ("bad", "good"):
        await lab.put(name)
    bad = await lab.pg.fetchval("SELECT schedule_id FROM sched.schedule WHERE name = 'bad'")
    await lab.pg.execute(
        f"""
        CREATE FUNCTION sched.poison() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'poison'; END $$;
        CREATE TRIGGER poison BEFORE INSERT ON sched.firing
            FOR EACH ROW WHEN (NEW.schedule_id = '{bad}') EXECUTE FUNCTION sched.poison()
        """
    )
    for _ in range(TURN_FAILURES_MAX):
        await lab.due()
        await lab.turn()
    letter = await lab.pg.fetchrow("SELECT * FROM sched.api_dead_letter")
    assert (letter["source"], letter["subject"]) == ("schedule", bad)
    assert letter["failures"] == TURN_FAILURES_MAX
    assert "poison" in letter["error"]
    assert len(await lab.firings()) == TURN_FAILURES_MAX  # the good one

    await lab.pg.execute("DROP FUNCTION sched.poison CASCADE")
    await lab.due()
    await lab.turn()
    fired = "SELECT count(*) FROM sched.firing WHERE schedule_id = $1"
    assert await lab.pg.fetchval(fired, bad) == 0
    asked = ReplayDeadLetter(dead_letter_id=letter["dead_letter_id"], by="ann")
    await Replays(lab.one, {}).replay(asked)
    await lab.turn()
    assert await lab.pg.fetchval(fired, bad) == 1
