"""Whatever is sent on any subject of the proof-store: refused, said with fields, nothing changes.
A malformed announcement is put aside, once, and those behind it are taken."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import malformed
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wfhub_common import subjects
from wfhub_common.messages import (
    ArtifactStored,
    DiscardDeadLetter,
    ReceiptsOf,
    ReplayDeadLetter,
    SealProof,
)

from .conftest import RUNNER, Attempt, Hub, eventually

ANSWER_S = 15.0
ASKED = (  # by whom each may be asked: the broker refuses the others
    (subjects.SCHEDULER, "seal", SealProof),
    (RUNNER, "receipts", ReceiptsOf),
    (subjects.API, "replay_ingest_letter", ReplayDeadLetter),
    (subjects.API, "discard_ingest_letter", DiscardDeadLetter),
)


@pytest.fixture
async def pg(running: Hub) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(running.database_url)
    yield connection
    await connection.close()


def said(hub: Hub, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in hub.store.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@malformed.SLOW
@given(data=st.data())
async def test_a_malformed_request_is_refused_on_every_subject(
    running: Hub, pg: asyncpg.Connection, data: st.DataObject
) -> None:
    bodies = [
        (sender, command, data.draw(malformed.refused_by(request_type), label=command))
        for sender, command, request_type in ASKED
    ]

    async def ask(sender: str, command: str, body: bytes) -> None:
        subject = subjects.rpc(sender, command)
        reply = await running.clients[sender].request(subject, body, timeout=ANSWER_S)
        assert json.loads(reply.data)["error"]["code"] == "request-malformed"

    async def send() -> None:
        await asyncio.gather(*(ask(*each) for each in bodies))

    await malformed.unchanged(pg, "proofs", send)
    refusals = said(running, "request refused")
    assert {line["subject"] for line in refusals} == {subjects.rpc(*each[:2]) for each in ASKED}
    assert all(line["error"] == "request-malformed" and line["reason"] for line in refusals)
    assert said(running, "request failed") == []


@malformed.SLOW
@given(word=malformed.texts)
async def test_what_is_about_nothing_that_is_there_changes_nothing(
    running: Hub, pg: asyncpg.Connection, word: str
) -> None:
    seal = Attempt().asked(()).model_dump(mode="json")
    questions: tuple[tuple[str, str, dict[str, Any]], ...] = (
        (RUNNER, "receipts", {"attempt_id": word, "names": [word], "wait_s": 0}),
        (subjects.API, "replay_ingest_letter", {"dead_letter_id": word}),
        (subjects.API, "discard_ingest_letter", {"dead_letter_id": word}),
        *(
            (subjects.SCHEDULER, "seal", {**seal, "scheduler": {**seal["scheduler"], name: word}})
            for name in ("task_id", "attempt_id", "runner_id", "project")
        ),
    )

    async def send() -> None:
        for sender, command, question in questions:
            body = json.dumps(question).encode()
            subject = subjects.rpc(sender, command)
            reply = await running.clients[sender].request(subject, body, timeout=ANSWER_S)
            answer = json.loads(reply.data)
            assert answer.get("error", {}).get("code") != "internal", (command, answer)
            assert answer.get("ok", {"receipts": []})["receipts"] == [], command

    await malformed.unchanged(pg, "proofs", send)
    assert said(running, "request failed") == []


@settings(malformed.SLOW, max_examples=20)
@given(data=st.data())
async def test_a_malformed_announcement_is_put_aside_once_and_holds_up_no_other(
    running: Hub, pg: asyncpg.Connection, data: st.DataObject
) -> None:
    attempt = Attempt()
    bodies = data.draw(st.lists(malformed.refused_by(ArtifactStored), min_size=1, max_size=6))
    before = await malformed.digest(pg, "proofs", but=("dead_letter",))
    for body in bodies:
        await running.publish(attempt, body)

    async def aside() -> bool:
        count = "SELECT count(*) FROM proofs.dead_letter WHERE subject = $1 AND state = 'open'"
        js = running.clients[subjects.SCHEDULER].jetstream()
        waiting = (await js.stream_info(subjects.INGEST_STREAM)).state.messages
        return waiting == 0 and await pg.fetchval(count, attempt.subject()) == len(bodies)

    await eventually(aside)
    assert await malformed.digest(pg, "proofs", but=("dead_letter",)) == before
    letters = [
        line for line in said(running, "dead letter") if line["subject"] == attempt.subject()
    ]
    assert Counter(line["code"] for line in letters) == {"message-malformed": len(bodies)}
    await running.received(attempt, good=b"data")
