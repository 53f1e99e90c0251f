"""Whatever is sent on any subject of the scheduler: refused, said once with fields, and nothing
changes. So are well-formed messages about what is not there, or from whom they must not come."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import malformed
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from pydantic import BaseModel
from scheduler_hub import Hub, Runner, answering, scheduler, until
from structlog.testing import capture_logs
from wfhub_common import broker as rpc
from wfhub_common import flood, ids, subjects
from wfhub_common.messages import AttemptState

AT_ONCE = 40
ANSWER_S = 15.0
FIELDS = {"subject", "error", "reason", "about", "unsaid"}


@dataclass
class Target:
    """A scheduler with work under way, and what it answers: the type of each command's request."""

    hub: Hub
    client: Client
    served: dict[str, type[BaseModel]]
    runner: Runner
    attempt_id: str

    async def answer(self, sender: str, command: str, body: bytes) -> dict[str, Any]:
        subject = subjects.rpc(sender, command)
        reply = await self.client.request(subject, body, timeout=ANSWER_S)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    async def quiet(self) -> None:
        """All that was told is published: from here on only a command changes anything."""

        async def look() -> bool:
            placed = "NOT EXISTS (SELECT FROM sched.event_batch WHERE up_to IS NULL)"
            sql = f"SELECT last_pos = published_pos AND {placed} FROM sched.relay"
            return bool(await self.hub.pg.fetchval(sql))

        await until(look, "published")


@pytest.fixture
async def target(idle_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Target]:
    served: dict[str, type[BaseModel]] = {}
    serve = rpc.serve

    def noting(broker: Any, command: str, request_type: type[BaseModel], *a: Any, **k: Any) -> None:
        served[command] = request_type
        serve(broker, command, request_type, *a, **k)

    monkeypatch.setattr(rpc, "serve", noting)
    async with scheduler(idle_hub.settings):
        hub = await answering(idle_hub)
        runner = await hub.runner("gpu")
        await hub.submit()
        attempt_id = (await runner.claim_one()).attempt_id
        await runner.report(attempt_id, AttemptState.RUNNING)
        await hub.submit()
        made = Target(hub, hub.broker.connection, served, runner, attempt_id)
        await made.quiet()
        yield made
        assert attempt_id not in (await runner.heartbeat(attempt_id)).lost
        assert len(await runner.claim(wait_s=0)) == 1  # it goes on answering


def said_with_fields(logs: list[Any]) -> Counter[str]:
    """The subjects of the refusals; nothing else was said."""
    assert {line["event"] for line in logs} <= {"request refused"}, logs
    assert {line["log_level"] for line in logs} <= {"info"}
    assert all(line.keys() >= FIELDS and line["reason"] for line in logs)
    return Counter(line["subject"] for line in logs)


@malformed.SLOW
@given(data=st.data())
async def test_a_malformed_message_is_refused_and_said_once_on_every_subject(
    target: Target, data: st.DataObject
) -> None:
    sender = ids.new_runner_id()  # of this turn alone, so that no line is kept back
    bodies = {
        command: data.draw(malformed.refused_by(request_type), label=command)
        for command, request_type in sorted(target.served.items())
    }

    async def send() -> None:
        answers = await asyncio.gather(
            *(target.answer(sender, command, body) for command, body in bodies.items())
        )
        for command, answer in zip(bodies, answers, strict=True):
            assert answer.keys() == {"error"}, (command, answer)
            assert answer["error"]["code"] == "request-malformed", (command, answer)

    with capture_logs() as logs:
        await malformed.unchanged(target.hub.pg, "sched", send)
    assert said_with_fields(logs) == Counter(subjects.rpc(sender, each) for each in bodies)


async def test_every_command_is_refused_from_whom_it_must_not_come(target: Target) -> None:
    """With a body that would do something from anybody else."""
    runner = target.runner.runner_id
    wrong = {
        "submit_task": (runner, {"project": "default", "spec": {"repo": "/r", "prompt": "p"}}),
        "create_project": (runner, {"name": "mine"}),
        "update_project": (subjects.PROOF_STORE, {"project": "default", "paused": True}),
        "update_pool": (runner, {"pool": "default", "paused": True}),
        "drain_runner": (runner, {"runner_id": runner}),
        "cancel_task": (subjects.GATEWAY, {"task_id": ids.new_task_id()}),
        "review_task": (runner, {"task_id": ids.new_task_id(), "decision": "approved"}),
        "introspect": (runner, {"token_sha256": "0" * 64}),
        "introspect_many": (runner, {"token_sha256s": ["0" * 64]}),
        "complete": (subjects.API, {"attempt_id": target.attempt_id, "outcome": "failed"}),
        "report": (subjects.SCHEDULER, {"attempt_id": target.attempt_id, "step": "x"}),
    }

    async def send() -> None:
        for command, (sender, body) in wrong.items():
            answer = await target.answer(sender, command, json.dumps(body).encode())
            assert answer["error"]["code"] == "not-allowed", (command, answer)

    with capture_logs() as logs:
        await malformed.unchanged(target.hub.pg, "sched", send)
    assert said_with_fields(logs) == Counter(
        subjects.rpc(sender, command) for command, (sender, _) in wrong.items()
    )


def about(target: Target, word: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(sender, command, body): well-formed, about something that is not there or not theirs."""
    mine, other = target.runner.runner_id, ids.new_runner_id()
    claim = {"claim_id": word or "c", "slots": 1, "wait_s": 0}
    return [
        (subjects.API, "cancel_task", {"task_id": word}),
        (subjects.API, "review_task", {"task_id": word, "decision": "declined"}),
        (subjects.API, "drain_runner", {"runner_id": word}),
        (subjects.API, "update_project", {"project": word, "paused": True}),
        (subjects.API, "submit_task", {"project": word, "spec": {"repo": "/r", "prompt": "p"}}),
        (subjects.API, "replay_dead_letter", {"dead_letter_id": word}),
        (subjects.API, "discard_dead_letter", {"dead_letter_id": word}),
        (subjects.API, "delete_schedule", {"project": word, "schedule": word}),
        (subjects.API, "fire_schedule", {"project": "default", "schedule": word}),
        (
            target.runner.runner_id,
            "report",
            {"attempt_id": word, "step": "x", "fields": {"a": word}},
        ),
        (target.runner.runner_id, "complete", {"attempt_id": word, "outcome": "failed"}),
        (mine, "claim", {"incarnation": word, **claim}),
        (other, "report", {"attempt_id": target.attempt_id, "step": "x"}),
        (other, "complete", {"attempt_id": target.attempt_id, "outcome": "failed"}),
        (other, "claim", {"incarnation": target.runner.incarnation, **claim}),
    ]


@malformed.SLOW
@given(word=malformed.texts)
async def test_what_is_about_nothing_that_is_there_changes_nothing(
    target: Target, word: str
) -> None:
    messages = about(target, word)

    async def send() -> None:
        for sender, command, body in messages:
            answer = await target.answer(sender, command, json.dumps(body).encode())
            assert answer.keys() == {"error"}, (command, body, answer)
            assert answer["error"]["code"] != "internal", (command, body)

    with capture_logs() as logs:
        await malformed.unchanged(target.hub.pg, "sched", send)
    said_with_fields(logs)


async def test_a_flood_of_garbage_is_a_few_lines_and_a_count(target: Target) -> None:
    count = 500
    subject = subjects.rpc(target.runner.runner_id, "complete")
    with capture_logs() as logs:
        for _ in range(count // AT_ONCE + 1):
            await asyncio.gather(
                *(target.client.request(subject, b"{", timeout=ANSWER_S) for _ in range(AT_ONCE))
            )
    assert 0 < len(logs) <= 2 * flood.LINES_MAX  # two periods, on a slow machine


async def test_what_asks_for_no_reply_is_not_done(target: Target) -> None:
    body = {"attempt_id": target.attempt_id, "outcome": "failed"}

    async def send() -> None:
        subject = subjects.rpc(target.runner.runner_id, "complete")
        await target.client.publish(subject, json.dumps(body).encode())
        await target.runner.heartbeat(target.attempt_id)  # behind it on the same connection

    with capture_logs() as logs:
        before = await malformed.digest(target.hub.pg, "sched", but=("runner", "attempt"))
        await send()
        await until(lambda: _said(logs), "refused")
        assert await malformed.digest(target.hub.pg, "sched", but=("runner", "attempt")) == before
    assert [line["error"] for line in logs] == ["no-reply-subject"]
    attempt = await target.hub.attempt(target.attempt_id)
    assert attempt["state"] == "running"


async def _said(logs: list[Any]) -> bool:
    return bool(logs)


async def test_hints_may_be_anything(target: Target) -> None:
    async def send() -> None:
        for body in (b"", b"\x00", b"{", b"x" * malformed.HUGE):
            await target.client.publish(subjects.WAKE, body)
        await target.client.flush()

    with capture_logs() as logs:
        await malformed.unchanged(target.hub.pg, "sched", send)
    assert logs == []
