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
        self.together: list[tuple[str, ...]] = []

    async def __call__(self, _digest: str) -> TokenInfo:
        self.asked += 1
        return await self._answered()

    async def many(self, digests: tuple[str, ...]) -> tuple[TokenInfo, ...]:
        self.together.append(digests)
        answer = await self._answered()
        return tuple(answer for _ in digests)

    async def _answered(self) -> TokenInfo:
        self.called.set()
        if self.hold:
            await self.hold.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_requests_at_the_same_time_share_one_question():
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    await asyncio.gather(*(tokens.check(HEADER) for _ in range(20)))
    assert scheduler.asked == 1


async def test_an_answer_is_asked_for_again_when_it_is_old(monkeypatch):
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    await tokens.check(HEADER)
    monkeypatch.setattr(module, "INTROSPECT_CACHE_S", -1)
    scheduler.answer = TokenInfo(active=False)
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_who_asked_lately_waits_for_nothing_since_all_are_asked_about_together(monkeypatch):
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    for name in "ab":
        await tokens.check(f"Bearer wat_{name}")
    monkeypatch.setattr(module, "INTROSPECT_CACHE_S", 1000)
    scheduler.answer = live(attempt_id="att_2")
    await tokens.refresh()
    assert scheduler.together == [tuple(module.token_sha256(f"wat_{name}") for name in "ab")]
    assert (await tokens.check("Bearer wat_a"))[1].attempt_id == "att_2"
    assert scheduler.asked == 2


async def test_a_token_that_died_is_refused_after_the_next_question_and_not_asked_about_again():
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    await tokens.check(HEADER)
    scheduler.answer = TokenInfo(active=False)
    await tokens.refresh()
    with pytest.raises(Rejected):
        await tokens.check(HEADER)
    await tokens.refresh()
    assert len(scheduler.together) == 1


async def test_tokens_that_nobody_uses_are_not_asked_about(monkeypatch):
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    await tokens.refresh()
    await tokens.check(HEADER)
    monkeypatch.setattr(module, "FRESH_FOR_S", -1)
    await tokens.refresh()
    assert scheduler.together == []


async def test_no_more_tokens_are_asked_about_than_one_message_holds(monkeypatch):
    monkeypatch.setattr(module, "FRESH_TOKENS_MAX", 2)
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    for name in "abac":
        await tokens.check(f"Bearer wat_{name}")
    await tokens.refresh()
    assert scheduler.together == [tuple(module.token_sha256(f"wat_{name}") for name in "ac")]


async def test_an_answer_to_an_earlier_question_takes_no_later_ones_place():
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    digest, _ = await tokens.check(HEADER)
    scheduler.hold = asyncio.Event()
    scheduler.called.clear()
    refreshing = asyncio.create_task(tokens.refresh())
    await scheduler.called.wait()
    hold, scheduler.hold = scheduler.hold, None
    scheduler.answer = TokenInfo(active=False)
    await tokens.ask(digest)
    scheduler.answer = live()
    hold.set()
    await refreshing
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_an_attempt_that_ended_is_refused_at_once_whatever_is_being_asked():
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    await tokens.check(HEADER)
    tokens.ended("att_1")
    with pytest.raises(Rejected):
        await tokens.check(HEADER)
    await tokens.refresh()
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_a_scheduler_that_cannot_be_asked_about_all_is_asked_about_each(monkeypatch):
    monkeypatch.setattr(module, "FRESH_EVERY_S", 0)
    scheduler = Scheduler()
    failed = asyncio.Event()

    async def earlier(_digests: tuple[str, ...]) -> tuple[TokenInfo, ...]:
        failed.set()
        raise RetryLater("no-responders", "no service is up that answers introspect_many")

    tokens = Tokens(scheduler, earlier)
    await tokens.check(HEADER)
    keeping = asyncio.create_task(tokens.keep_fresh())
    await asyncio.wait_for(failed.wait(), 5)
    failed.clear()
    await asyncio.wait_for(failed.wait(), 5)  # it goes on
    keeping.cancel()
    monkeypatch.setattr(module, "INTROSPECT_CACHE_S", -1)
    await tokens.check(HEADER)
    assert scheduler.asked == 2


async def test_a_hint_that_overtakes_the_answer_wins():
    scheduler = Scheduler()
    scheduler.hold = asyncio.Event()
    tokens = Tokens(scheduler, scheduler.many)
    checking = asyncio.create_task(tokens.check(HEADER))
    await scheduler.called.wait()
    tokens.ended("att_1")
    scheduler.hold.set()
    with pytest.raises(Rejected):
        await checking


async def test_a_lease_that_ran_out_within_the_caches_age_is_over():
    scheduler = Scheduler(live(valid_until=datetime.now(UTC) - timedelta(seconds=1)))
    tokens = Tokens(scheduler, scheduler.many)
    with pytest.raises(Rejected):
        await tokens.check(HEADER)


async def test_a_failed_question_is_not_remembered():
    scheduler = Scheduler(RetryLater("timeout", "no answer"))
    tokens = Tokens(scheduler, scheduler.many)
    with pytest.raises(RetryLater):
        await tokens.check(HEADER)
    scheduler.answer = live()
    assert (await tokens.check(HEADER))[1].active


async def test_a_stream_whose_token_cannot_be_checked_is_cut(monkeypatch):
    monkeypatch.setattr(module, "RECHECK_S_MIN", 0)
    reasons = []
    scheduler = Scheduler(RetryLater("timeout", "no answer"))
    tokens = Tokens(scheduler, scheduler.many)
    await asyncio.wait_for(tokens.watch("digest", reasons.append), 5)
    assert [reason.code for reason in reasons] == ["timeout"]


async def test_how_long_a_lease_has_left_is_the_databases_word_whatever_our_clock_says():
    hour = timedelta(hours=1)
    ahead = Scheduler(live(valid_until=datetime.now(UTC) - hour, valid_for_s=30.0))
    await Tokens(ahead, ahead.many).check(HEADER)
    behind = Scheduler(live(valid_until=datetime.now(UTC) + hour, valid_for_s=0.0))
    with pytest.raises(Rejected):
        await Tokens(behind, behind.many).check(HEADER)


async def test_a_stream_is_cut_when_its_lease_is_over_by_the_databases_clock():
    reasons = []
    scheduler = Scheduler(live(valid_until=datetime.now(UTC) + timedelta(hours=1), valid_for_s=0.4))
    tokens = Tokens(scheduler, scheduler.many)
    digest, _ = await tokens.check(HEADER)
    scheduler.answer = TokenInfo(active=False)
    await asyncio.wait_for(tokens.watch(digest, reasons.append), 5)
    assert [reason.code for reason in reasons] == ["token-inactive"]


async def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "TOKENS_CACHED_MAX", 2)
    scheduler = Scheduler()
    tokens = Tokens(scheduler, scheduler.many)
    for name in "abc":
        await tokens.check(f"Bearer wat_{name}")
    await tokens.check("Bearer wat_c")
    assert scheduler.asked == 3
    await tokens.check("Bearer wat_a")
    assert scheduler.asked == 4
