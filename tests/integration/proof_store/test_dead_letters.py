"""An announcement on which the store fails is counted, put aside, and replayed by command."""

import asyncpg
import pytest
from wfhub_common import broker as rpc
from wfhub_common import ids, subjects
from wfhub_common.errors import Rejected, RetryLater, WfhubError
from wfhub_common.messages import (
    DeadLetterDecided,
    DiscardDeadLetter,
    ReplayDeadLetter,
)
from wfhub_common.settings import BrokerSettings
from wfhub_proof_store.letters import FAILURES_MAX

from .conftest import Attempt, Hub, eventually

POISON = """
CREATE FUNCTION proofs.poison() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'poison'; END $$;
CREATE TRIGGER poison BEFORE INSERT ON proofs.artifact
    FOR EACH ROW WHEN (NEW.name = 'poison') EXECUTE FUNCTION proofs.poison()
"""


async def sql(hub: Hub, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(hub.database_url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def run_sql(hub: Hub, statements: str) -> None:
    connection = await asyncpg.connect(hub.database_url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def messages(hub: Hub, stream: str) -> int:
    js = hub.clients[subjects.SCHEDULER].jetstream()
    return int((await js.stream_info(stream)).state.messages)


async def decide(
    hub: Hub, passwords: dict[str, str], command: str, dead_letter_id: str
) -> DeadLetterDecided:
    """As the API does."""
    user = subjects.API
    settings = BrokerSettings(
        nats_url=hub.store.env["NATS_URL"], nats_user=user, nats_password=passwords[user]
    )
    broker = rpc.make_broker(settings, name=user)
    await broker.start()
    kind = ReplayDeadLetter if command.startswith("replay") else DiscardDeadLetter
    asked = kind(dead_letter_id=dead_letter_id, by="ann")
    try:
        return await rpc.ask(broker, user, command, asked, DeadLetterDecided)
    finally:
        await broker.stop()


async def buried(hub: Hub) -> asyncpg.Record:
    async def there() -> bool:
        return await messages(hub, subjects.DLQ_STREAM) == 1 and not await messages(
            hub, subjects.INGEST_STREAM
        )

    await eventually(there)
    (letter,) = await sql(hub, "SELECT * FROM proofs.api_dead_letter")
    return letter


async def test_a_poison_announcement_is_put_aside_and_harms_no_other(
    running: Hub, passwords: dict[str, str]
) -> None:
    await run_sql(running, POISON)
    attempt = Attempt()
    await running.upload(b"data")
    await running.announce(attempt, "poison", b"data")
    await running.received(attempt, good=b"data")
    letter = await buried(running)
    assert (letter["source"], letter["state"]) == ("ingest", "open")
    assert (letter["failures"], letter["sender"]) == (FAILURES_MAX, attempt.runner)
    assert letter["subject"] == attempt.subject()
    assert "poison" in letter["error"]
    waiting = await running.receipts(attempt, "poison")
    assert letter["dead_letter_id"] in waiting.refused["poison"]

    with pytest.raises(RetryLater, match="failed again"):
        await decide(running, passwords, "replay_ingest_letter", letter["dead_letter_id"])
    await run_sql(running, "DROP FUNCTION proofs.poison CASCADE")
    decided = await decide(running, passwords, "replay_ingest_letter", letter["dead_letter_id"])
    assert (decided.state, decided.repeated) == ("replayed", False)
    again = await decide(running, passwords, "replay_ingest_letter", letter["dead_letter_id"])
    assert again.repeated
    found = await running.receipts(attempt, "poison")
    assert [each.sender for each in found.receipts] == [attempt.runner]
    assert found.refused == {}


async def test_a_replay_of_what_is_refused_leaves_the_letter_open_until_it_is_discarded(
    running: Hub, passwords: dict[str, str]
) -> None:
    await running.publish(Attempt(), b"not json")
    letter = await buried(running)
    with pytest.raises(Rejected) as refused:
        await decide(running, passwords, "replay_ingest_letter", letter["dead_letter_id"])
    assert (refused.value.code, refused.value.status) == ("replay-refused", 409)
    decided = await decide(running, passwords, "discard_ingest_letter", letter["dead_letter_id"])
    assert decided.state == "discarded"
    ((state, by),) = await sql(running, "SELECT state, decided_by FROM proofs.api_dead_letter")
    assert (state, by) == ("discarded", "ann")
    with pytest.raises(Rejected):
        await decide(running, passwords, "replay_ingest_letter", ids.new_dead_letter_id())


async def test_a_database_that_is_away_or_not_ready_is_never_counted(running: Hub) -> None:
    attempt = Attempt()
    await running.upload(b"data")
    await run_sql(running, "ALTER TABLE proofs.artifact RENAME TO elsewhere")
    await running.announce(attempt, "late", b"data")

    async def tried_often() -> bool:
        js = running.clients[subjects.SCHEDULER].jetstream()
        await run_sql(
            running,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'wfhub-proof-store'",
        )
        info = await js.consumer_info(subjects.INGEST_STREAM, "proof-store")
        return info.delivered is not None and info.delivered.consumer_seq > FAILURES_MAX + 1

    await eventually(tried_often)
    assert await sql(running, "SELECT * FROM proofs.dead_letter") == []
    await run_sql(running, "ALTER TABLE proofs.elsewhere RENAME TO artifact")

    async def delivered() -> bool:
        try:
            found = await running.receipts(attempt, "late")
        except RetryLater:  # asked on a connection that was just ended: asked again
            return False
        return [each.name for each in found.receipts] == ["late"]

    await eventually(delivered)


async def test_nobody_but_the_api_decides(running: Hub) -> None:
    """The broker refuses a runner; the scheduler could ask only by a mistake there."""
    asked = ReplayDeadLetter(dead_letter_id=ids.new_dead_letter_id())
    with pytest.raises(WfhubError):
        await rpc.ask(
            running.scheduler,
            subjects.SCHEDULER,
            "replay_ingest_letter",
            asked,
            DeadLetterDecided,
            timeout_s=1.0,
        )
