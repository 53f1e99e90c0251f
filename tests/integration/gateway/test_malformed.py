"""Whatever is sent on any subject of the gateway: refused, said with fields, nothing changes."""

import json
from collections.abc import Callable
from typing import Any

import asyncpg
import malformed
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from wfhub_common import flood, ids, subjects
from wfhub_common.messages import ExchangesOf, UsageOf

ANSWER_S = 15.0
ASKED = {"exchanges": ExchangesOf, "usage": UsageOf}


@malformed.SLOW
@given(data=st.data())
async def test_a_malformed_question_is_refused_and_said_once(
    used_gateway: Any, gateway_database: str, scheduler: Any, data: st.DataObject
) -> None:
    sender = ids.new_runner_id()  # of this turn alone, so that no line is kept back
    client = scheduler.broker.connection
    pg = await asyncpg.connect(gateway_database)

    async def send() -> None:
        for command, request_type in ASKED.items():
            body = data.draw(malformed.refused_by(request_type), label=command)
            reply = await client.request(subjects.rpc(sender, command), body, timeout=ANSWER_S)
            assert json.loads(reply.data)["error"]["code"] == "request-malformed"

    with capture_logs() as logs:
        await malformed.unchanged(pg, "gateway", send)
    await pg.close()
    assert [(line["event"], line["subject"]) for line in logs] == [
        ("request refused", subjects.rpc(sender, command)) for command in ASKED
    ]


@malformed.SLOW
@given(word=malformed.texts)
async def test_a_question_about_nothing_that_is_there_is_answered_so(
    used_gateway: Any, gateway_database: str, scheduler: Any, word: str
) -> None:
    client = scheduler.broker.connection
    pg = await asyncpg.connect(gateway_database)

    async def send() -> None:
        for command, name in (("exchanges", "attempt_id"), ("usage", "task_id")):
            subject = subjects.rpc(subjects.API, command)
            body = json.dumps({name: word}).encode()
            answer = json.loads((await client.request(subject, body, timeout=ANSWER_S)).data)
            known = answer.get("ok", {"prompt_tokens": 0})
            assert known["prompt_tokens"] == 0
            assert answer.get("error", {}).get("code") != "internal", (command, answer)

    await malformed.unchanged(pg, "gateway", send)
    await pg.close()


async def test_malformed_hints_are_ignored_and_said_a_few_times(
    used_gateway: Any, scheduler: Any, wait_until: Callable[..., Any]
) -> None:
    client = scheduler.broker.connection

    async def all_heard() -> bool:
        return any(line["event"] == "attempt ended" for line in logs)

    with capture_logs() as logs:
        for body in (b"", b"\x00", b"[]", b"{" * 1000, b'"' + b"x" * malformed.HUGE) * 10:
            await client.publish(subjects.CTL_ATTEMPT_ENDED, body)
        await scheduler.end(ids.new_attempt_id())
        await wait_until(all_heard)
    ignored = [line for line in logs if line["event"] == "malformed hint ignored"]
    assert 0 < len(ignored) <= flood.LINES_MAX
    assert all(line["subject"] == subjects.CTL_ATTEMPT_ENDED for line in ignored)
