"""What fails again and again is counted, put aside with a row, and decided by command."""

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
import wfhub_scheduler.dead_letters
from scheduler_hub import SPEC, Hub, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, dead_letters, ids, subjects
from wfhub_common.errors import Corrupt, Rejected, RetryLater
from wfhub_common.messages import (
    Claim,
    Claimed,
    DeadLetterDecided,
    DiscardDeadLetter,
    ReplayDeadLetter,
    SubmitTask,
    Submitted,
)
from wfhub_scheduler.core import Core
from wfhub_scheduler.dead_letters import (
    RPC_FAILURES_MAX,
    TURN_FAILURES_MAX,
    Letter,
    guarded,
    not_aside,
    put_aside,
)
from wfhub_scheduler.timing import Timing

_UNREADABLE = """UPDATE sched.task SET spec = spec || '{"repo": 5}' WHERE task_id = $1"""
TOKEN = "wht_" + "a" * 43


async def letters(hub: Hub) -> list[asyncpg.Record]:
    return list(await hub.pg.fetch("SELECT * FROM sched.api_dead_letter ORDER BY first_at"))


async def poisoned(hub: Hub, table: str, when: str) -> None:
    """Writing such a row fails for no fault of the database's health."""
    await hub.pg.execute(
        f"""
        CREATE FUNCTION sched.poison() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'poison'; END $$;
        CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON sched.{table}
            FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION sched.poison()
        """
    )


async def cured(hub: Hub) -> None:
    await hub.pg.execute("DROP FUNCTION sched.poison CASCADE")


def poison(**more: str) -> SubmitTask:
    spec = SPEC.model_copy(update={"title": "poison", **more})
    return SubmitTask(project="default", spec=spec, idempotency_key="once")


async def replay(hub: Hub, dead_letter_id: str) -> DeadLetterDecided:
    asked = ReplayDeadLetter(dead_letter_id=dead_letter_id, by="ann")
    return await hub.ask(subjects.API, "replay_dead_letter", asked, DeadLetterDecided)


async def discard(hub: Hub, dead_letter_id: str) -> DeadLetterDecided:
    asked = DiscardDeadLetter(dead_letter_id=dead_letter_id, by="ann")
    return await hub.ask(subjects.API, "discard_dead_letter", asked, DeadLetterDecided)


async def test_a_handler_that_raises_a_hundred_times_loses_nothing(hub: Hub) -> None:
    await poisoned(hub, "task", "NEW.title = 'poison'")
    for turn in range(1, 101):
        with pytest.raises(RetryLater, match="safe to ask again"):
            await hub.ask(subjects.API, "submit_task", poison(), Submitted)
        if turn in (RPC_FAILURES_MAX - 1, RPC_FAILURES_MAX):
            assert len(await letters(hub)) == turn - RPC_FAILURES_MAX + 1
    others = await asyncio.gather(*(hub.submit() for _ in range(5)))
    assert all(each.created for each in others)
    (letter,) = await letters(hub)
    assert (letter["source"], letter["state"], letter["failures"]) == ("rpc", "open", 100)
    assert letter["subject"] == subjects.rpc("api", "submit_task")
    assert "poison" in letter["error"]
    assert "INSERT" not in letter["error"]
    assert SubmitTask.model_validate_json(letter["body"]) == poison()
    assert letter["first_at"] < letter["last_at"]
    await cured(hub)
    assert (await hub.ask(subjects.API, "submit_task", poison(), Submitted)).created


async def test_a_letter_is_told_on_the_dead_letter_stream_once(hub: Hub) -> None:
    await poisoned(hub, "task", "NEW.title = 'poison'")
    for _ in range(2 * RPC_FAILURES_MAX):
        with pytest.raises(RetryLater):
            await hub.ask(subjects.API, "submit_task", poison(), Submitted)
    js = hub.broker.connection.jetstream()
    assert (await js.stream_info(subjects.DLQ_STREAM)).state.messages == 1
    message = await js.get_msg(subjects.DLQ_STREAM, seq=1)
    assert message.subject == "wfhub.v1.dlq.scheduler"
    assert json.loads(message.data or b"")["source"] == "rpc"


async def test_a_replay_runs_the_request_again_and_only_once(hub: Hub) -> None:
    await poisoned(hub, "task", "NEW.title = 'poison'")
    for _ in range(RPC_FAILURES_MAX):
        with pytest.raises(RetryLater):
            await hub.ask(subjects.API, "submit_task", poison(), Submitted)
    ((letter_id, *_),) = await letters(hub)
    with pytest.raises(RetryLater, match="failed again"):
        await replay(hub, letter_id)
    assert (await letters(hub))[0]["state"] == "open"
    await cured(hub)
    answers = await asyncio.gather(*(replay(hub, letter_id) for _ in range(4)))
    assert sorted(each.repeated for each in answers) == [False, True, True, True]
    assert {each.state for each in answers} == {"replayed"}
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 1
    (letter,) = await letters(hub)
    assert (letter["state"], letter["decided_by"]) == ("replayed", "ann")
    again = await hub.ask(subjects.API, "submit_task", poison(), Submitted)
    assert not again.created


async def test_a_discarded_letter_stays_discarded_and_a_new_failure_is_a_new_one(hub: Hub) -> None:
    await poisoned(hub, "task", "NEW.title = 'poison'")
    for _ in range(RPC_FAILURES_MAX):
        with pytest.raises(RetryLater):
            await hub.ask(subjects.API, "submit_task", poison(), Submitted)
    ((letter_id, *_),) = await letters(hub)
    assert not (await discard(hub, letter_id)).repeated
    assert (await discard(hub, letter_id)).repeated
    assert (await replay(hub, letter_id)).state == "discarded"
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 0
    for _ in range(RPC_FAILURES_MAX):
        with pytest.raises(RetryLater):
            await hub.ask(subjects.API, "submit_task", poison(), Submitted)
    assert [each["state"] for each in await letters(hub)] == ["discarded", "open"]


async def test_a_secret_is_not_stored_and_what_is_not_whole_is_not_replayed(hub: Hub) -> None:
    await poisoned(hub, "task", "NEW.title = 'poison'")
    for _ in range(RPC_FAILURES_MAX):
        with pytest.raises(RetryLater):
            await hub.ask(subjects.API, "submit_task", poison(prompt=f"use {TOKEN}"), Submitted)
    (letter,) = await letters(hub)
    assert TOKEN not in str(dict(letter))
    assert "use [redacted]" in letter["body"]
    with pytest.raises(Rejected, match="not whole"):
        await replay(hub, letter["dead_letter_id"])
    assert (await discard(hub, letter["dead_letter_id"])).state == "discarded"


async def test_what_a_runner_asks_again_by_itself_is_not_replayed(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    await poisoned(hub, "attempt", "true")
    asked = Claim(claim_id=ids.new_claim_id(), incarnation=runner.incarnation, slots=1)
    for _ in range(RPC_FAILURES_MAX):
        with pytest.raises(RetryLater):
            await hub.ask(runner.runner_id, "claim", asked, Claimed)
    (letter,) = await letters(hub)
    assert letter["sender"] == runner.runner_id
    with pytest.raises(Rejected) as refused:
        await replay(hub, letter["dead_letter_id"])
    assert (refused.value.code, refused.value.status) == ("not-replayable", 409)
    await cured(hub)
    assert len((await hub.ask(runner.runner_id, "claim", asked, Claimed)).assignments) == 1


async def test_only_the_api_decides_and_only_what_there_is(hub: Hub) -> None:
    asked = ReplayDeadLetter(dead_letter_id=ids.new_dead_letter_id())
    with pytest.raises(Rejected) as refused:
        await hub.ask(ids.new_runner_id(), "replay_dead_letter", asked, DeadLetterDecided)
    assert refused.value.code == "not-allowed"
    for unknown in (asked.dead_letter_id, "x", "dlt_\x00"):
        with pytest.raises(Rejected) as refused:
            await replay(hub, unknown)
        assert (refused.value.code, refused.value.status) == ("dead-letter-unknown", 404)


async def test_a_refused_seal_asked_again_gives_a_proof_and_the_task_stays_failed(hub: Hub) -> None:
    lost = Corrupt("blob-lost", "restore it below PROOFS_ROOT")
    hub.seal_refusals += [lost, lost]
    task_id = (await hub.submit()).task_id
    runner = await hub.runner()
    attempt_id = (await runner.claim_one()).attempt_id
    await runner.complete(runner.won(attempt_id))
    await hub.in_state(task_id, "failed")
    ((letter_id, *_),) = await letters(hub)
    with pytest.raises(Rejected, match="blob-lost"):
        await replay(hub, letter_id)
    decided = await replay(hub, letter_id)
    assert "the task stays failed" in decided.outcome
    task = await hub.task(task_id)
    assert task["state"] == "failed"
    assert task["proof_id"] in decided.outcome
    assert (await replay(hub, letter_id)).repeated
    assert len(hub.seal_questions) == 3
    events = [e.type for e in await hub.all_published() if e.data.get("task_id") == task_id]
    assert events.count("proof.sealed") == 1
    assert await runner.claim(wait_s=0) == ()  # nothing is published


async def test_a_task_whose_proof_cannot_even_be_asked_for_is_put_aside_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier version stored, say, this one cannot read."""
    monkeypatch.setattr(wfhub_scheduler.dead_letters, "TURN_FAILURES_MAX", 2)
    runner = await hub.runner()
    tasks = [(await hub.submit()).task_id for _ in range(2)]
    attempts = {each.task_id: each.attempt_id for each in await runner.claim(2)}
    bad, good = tasks
    readable = await hub.pg.fetchval("SELECT spec::text FROM sched.task WHERE task_id = $1", bad)
    await hub.pg.execute(_UNREADABLE, bad)
    for task_id in tasks:
        await runner.complete(runner.won(attempts[task_id]))
    await hub.in_state(good, "publishing")

    async def letter() -> asyncpg.Record | None:
        await hub.pg.execute("UPDATE sched.task SET seal_due_at = now() WHERE task_id = $1", bad)
        return next(iter(await letters(hub)), None)

    found = await until(letter, "put aside")
    assert (found["source"], found["subject"]) == ("sealing", bad)
    assert found["failures"] == 2
    assert (await hub.task(bad))["state"] == "sealing"
    await hub.pg.execute(
        "UPDATE sched.task SET spec = $2::text::jsonb, seal_due_at = now() WHERE task_id = $1",
        bad,
        readable,
    )
    await replay(hub, found["dead_letter_id"])
    await hub.in_state(bad, "publishing")


async def test_a_poisoned_task_does_not_keep_others_from_timing_out(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wfhub_scheduler.dead_letters, "TURN_FAILURES_MAX", 2)
    await poisoned(hub, "task", "NEW.title = 'poison' AND NEW.state = 'failed'")
    bad = (await hub.submit(queue_s=1, title="poison")).task_id
    others = [(await hub.submit(queue_s=1)).task_id for _ in range(3)]
    for task_id in others:
        await hub.in_state(task_id, "failed")

    async def letter() -> asyncpg.Record | None:
        return next(iter(await letters(hub)), None)

    found = await until(letter, "put aside")
    assert (found["source"], found["subject"], found["failures"]) == ("sweep", bad, 2)
    assert (await hub.task(bad))["state"] == "ready"
    await cured(hub)
    await replay(hub, found["dead_letter_id"])
    await hub.in_state(bad, "failed")


@pytest.fixture
async def engine(idle_hub: Hub) -> AsyncIterator[AsyncEngine]:
    made = db.make_engine(idle_hub.settings.database_url, application="test")
    yield made
    await made.dispose()


@pytest.fixture
def core(idle_hub: Hub, engine: AsyncEngine) -> Core:
    return Core(engine, idle_hub.broker, Timing(30, 10, 1))


async def test_an_entity_that_fails_its_turn_does_not_block_the_others(core: Core) -> None:
    done: dict[str, int] = {"good": 0, "bad": 0}
    looked = text(f"SELECT id FROM unnest(ARRAY['bad', 'good']) id WHERE {not_aside('x', 'id')}")

    async def turn() -> None:
        async with db.transaction(core.engine) as connection:
            found = list((await connection.execute(looked)).scalars())
        for each in found:

            async def work(each: str = each) -> None:
                done[each] += 1
                if each == "bad":
                    raise ValueError("it cannot be advanced")

            await guarded(core, "x", each, work)

    for _ in range(TURN_FAILURES_MAX + 5):
        await turn()
    assert done == {"good": TURN_FAILURES_MAX + 5, "bad": TURN_FAILURES_MAX}


async def test_a_put_aside_entity_has_its_turn_again_after_a_replay(hub: Hub, core: Core) -> None:
    for turn in range(1, TURN_FAILURES_MAX + 1):
        letter = Letter("x", "wfl_1", "internal", "ValueError: no")
        opened = await put_aside(core, letter, failures_max=TURN_FAILURES_MAX)
        assert opened == (turn == TURN_FAILURES_MAX)
    aside = f"SELECT count(*) FROM (VALUES ('wfl_1')) e (id) WHERE {not_aside('x', 'e.id')}"
    assert await hub.pg.fetchval(aside) == 0
    ((letter_id, *_),) = await letters(hub)
    await replay(hub, letter_id)
    assert await hub.pg.fetchval(aside) == 1


async def test_an_outage_is_not_counted(core: Core, idle_hub: Hub) -> None:
    async def away() -> None:
        raise RetryLater("database-down", "it is away")

    async def not_migrated() -> None:
        async with db.transaction(core.engine) as connection:
            await connection.execute(text("SELECT nothing FROM sched.nowhere"))

    for work in (away, not_migrated):
        for _ in range(TURN_FAILURES_MAX):
            with pytest.raises(Exception, match=r"away|nowhere"):
                await guarded(core, "x", "wfl_1", work)
    assert await idle_hub.pg.fetchval("SELECT count(*) FROM sched.dead_letter") == 0


async def test_one_sender_cannot_fill_the_table(
    core: Core, idle_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "LIVE_ROWS_MAX", 3)

    async def fail(number: int, sender: str) -> None:
        body = f"{sender} {number}"
        letter = Letter("rpc", "s", "internal", "no", body, sender=sender)
        await put_aside(core, letter, failures_max=2)

    for number in range(10):
        for _ in range(2):
            await fail(number, "rnr_flood")
    await fail(0, "rnr_other")
    rows = await idle_hub.pg.fetch(
        "SELECT sender, count(*), max(failures) FROM sched.dead_letter GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("rnr_flood", 3, 2), ("rnr_other", 1, 1)]


async def test_what_failed_long_ago_counts_anew_and_is_forgotten(core: Core, idle_hub: Hub) -> None:
    letter = Letter("rpc", "s", "internal", "no")
    for _ in range(4):
        await put_aside(core, letter, failures_max=5)
    await idle_hub.pg.execute("UPDATE sched.dead_letter SET last_at = now() - interval '2 hours'")
    assert not await put_aside(core, letter, failures_max=5)
    assert await idle_hub.pg.fetchval("SELECT failures FROM sched.dead_letter") == 1
    await idle_hub.pg.execute("UPDATE sched.dead_letter SET last_at = now() - interval '2 hours'")
    async with db.transaction(core.engine) as connection:
        await dead_letters.DeadLetters("sched").forget_old(connection)
    assert await idle_hub.pg.fetchval("SELECT count(*) FROM sched.dead_letter") == 0
