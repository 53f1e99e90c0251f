"""Whatever is sent on a runner's own subject is refused, said once, and reaches no attempt."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import malformed
import pytest
from faststream.nats import NatsBroker
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from wfhub_agent_runner import steering
from wfhub_agent_runner.agents import table
from wfhub_agent_runner.steering import Inbox
from wfhub_api import wakeups
from wfhub_common import broker as rpc
from wfhub_common import ids, subjects
from wfhub_common.messages import SteerAttempt
from wfhub_common.settings import BrokerSettings

RUNNERS = 60  # one a turn, so that no line is kept back


@dataclass
class Listening:
    broker: NatsBroker
    runners: list[str]
    inbox: Inbox


@pytest.fixture
async def listening(nats_url: str) -> AsyncIterator[Listening]:
    broker = rpc.make_broker(BrokerSettings(nats_url=nats_url), name="runner")
    made = Listening(broker, [ids.new_runner_id() for _ in range(RUNNERS)], Inbox())
    for runner_id in made.runners:
        steering.serve(broker, runner_id, lambda _: made.inbox)
    await broker.start()
    async with made.inbox.open(table.ENTRIES["builtin"], asyncio.Event()):
        yield made
        assert not made.inbox.messages
        assert not made.inbox.hand_in.is_set()
    await rpc.stop(broker)


@malformed.SLOW
@given(body=malformed.refused_by(SteerAttempt))
async def test_a_malformed_word_is_refused_and_reaches_no_agent(
    listening: Listening, body: bytes
) -> None:
    runner_id = listening.runners.pop() if len(listening.runners) > 1 else listening.runners[0]
    subject = subjects.steering(runner_id)
    with capture_logs() as logs:
        reply = await listening.broker.connection.request(subject, body, timeout=15)
    assert json.loads(reply.data)["error"]["code"] == "request-malformed"
    assert [(line["event"], line["subject"]) for line in logs] == [("request refused", subject)]


@given(body=st.sampled_from([b"[" * 100_000, b"null", b"{}", b'{"data": 3}', b"\xff"]))
def test_an_event_that_is_none_wakes_nobody(body: bytes) -> None:
    assert wakeups.task_of(body) == ""
