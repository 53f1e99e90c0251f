"""The cache of introspected tokens."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.messages import TokenInfo
from wfhub_llm_gateway import tokens as module
from wfhub_llm_gateway.tokens import Tokens

HEADER = "Bearer wat_x"


def live(**fields) -> TokenInfo:
    until = datetime.now(UTC) + timedelta(seconds=30)
    return TokenInfo(**{"active": True, "attempt_id": "att_1", "valid_until": until, **fields})


class Scheduler:
    def __init__(self, answer=None):
        self.answer, self.asked, self.hold = answer or live(), 0, None
        self.called = asyncio.Event()

    async def __call__(self, _digest: str) -> TokenInfo:
        self.asked += 1
        self.called.set()
        if self.hold:
            await self.hold.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_requests_at_the_same_time_share_one_question():
    scheduler = Scheduler()
    tokens = Tokens(scheduler)
    await asyncio.gather(*(tokens.check(HEADER) for _ in range(20)))
    assert scheduler.asked == 1


async def test_an_answer_is_asked_for_again_when_it_is_old(monkeypatch):
    scheduler = Scheduler()
    tokens = Tokens(scheduler)
    await tokens.check(HEADER)
    monkeypatch.setattr(module, "INTROSPECT_CACHE_S", -1)
    scheduler.answer = TokenInfo(active=False)
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_who_asks_again_before_the_answer_is_old_waits_for_nothing(monkeypatch):
    scheduler = Scheduler()
    tokens = Tokens(scheduler)
    await tokens.check(HEADER)
    monkeypatch.setattr(module, "ASK_AHEAD_S", -1)
    scheduler.called.clear()
    scheduler.hold = asyncio.Event()
    scheduler.answer = TokenInfo(active=False)
    for _ in range(5):
        await tokens.check(HEADER)  # which would hang, if it waited
    await asyncio.wait_for(scheduler.called.wait(), 5)
    assert scheduler.asked == 2
    scheduler.hold.set()
    await tokens.ask(module.token_sha256("wat_x"))
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_an_attempt_that_ended_is_refused_at_once_whatever_is_being_asked(monkeypatch):
    scheduler = Scheduler()
    tokens = Tokens(scheduler)
    await tokens.check(HEADER)
    monkeypatch.setattr(module, "ASK_AHEAD_S", -1)
    scheduler.hold = asyncio.Event()
    await tokens.check(HEADER)
    tokens.ended("att_1")
    with pytest.raises(Rejected):
        await tokens.check(HEADER)
    scheduler.hold.set()
    await tokens.ask(module.token_sha256("wat_x"))
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_a_scheduler_that_cannot_be_asked_beside_a_request_does_it_no_harm(monkeypatch):
    scheduler = Scheduler()
    tokens = Tokens(scheduler)
    await tokens.check(HEADER)
    monkeypatch.setattr(module, "ASK_AHEAD_S", -1)
    scheduler.answer = RetryLater("down", "the scheduler does not answer")
    await tokens.check(HEADER)
    await asyncio.sleep(0)
    with pytest.raises(RetryLater):
        await tokens.ask(module.token_sha256("wat_x"))
    await tokens.check(HEADER)  # by the answer that is not old yet


async def test_a_hint_that_overtakes_the_answer_wins():
    scheduler = Scheduler()
    scheduler.hold = asyncio.Event()
    tokens = Tokens(scheduler)
    checking = asyncio.create_task(tokens.check(HEADER))
    await scheduler.called.wait()
    tokens.ended("att_1")
    scheduler.hold.set()
    with pytest.raises(Rejected):
        await checking


async def test_a_lease_that_ran_out_within_the_caches_age_is_over():
    tokens = Tokens(Scheduler(live(valid_until=datetime.now(UTC) - timedelta(seconds=1))))
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_a_failed_question_is_not_remembered():
    scheduler = Scheduler(RetryLater("timeout", "no answer"))
    tokens = Tokens(scheduler)
    with pytest.raises(RetryLater):
        await tokens.check(HEADER)
    scheduler.answer = live()
    assert (await tokens.check(HEADER))[1].active


async def test_a_stream_whose_token_cannot_be_checked_is_cut(monkeypatch):
    monkeypatch.setattr(module, "RECHECK_S_MIN", 0)
    reasons = []
    tokens = Tokens(Scheduler(RetryLater("timeout", "no answer")))
    ending = live(valid_until=datetime.now(UTC))
    await asyncio.wait_for(tokens.watch("digest", ending, reasons.append), 5)
    assert [reason.code for reason in reasons] == ["timeout"]


async def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "TOKENS_CACHED_MAX", 2)
    scheduler = Scheduler()
    tokens = Tokens(scheduler)
    for name in "abc":
        await tokens.check(f"Bearer wat_{name}")
    await tokens.check("Bearer wat_c")
    assert scheduler.asked == 3
    await tokens.check("Bearer wat_a")
    assert scheduler.asked == 4
